"""Put images of A and B side by side, as `--dataset_mode aligned` reads them.

    python scripts/combine_A_and_B.py --fold_A A --fold_B B --fold_AB AB

reads A/train/x.jpg and B/train/x.jpg (and val, test, or whatever folders there are) and writes
AB/train/x.jpg. A pair is found by its name; the two suffixes may differ, that of A is kept. With
--use_AB the names are x_A.jpg and x_B.jpg, in two folders or in one, and become x.jpg.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.image_folder import pair_by_stem  # noqa: E402
from data.image_io import (  # noqa: E402
    can_hold,
    described,
    read_image,
    write_image,
    writing_problem,
)
from util.errors import UserError, one_line, one_message, printable  # noqa: E402
from util.files import explain_write_errors  # noqa: E402

REMEDY = "choose another --fold_AB"
Job = tuple[str, str, Path]  # A, B, and what they become


def jobs(opt: argparse.Namespace) -> tuple[list[Job], list[str]]:
    """What to write, at most `opt.num_imgs` in each folder, and the images without a partner."""
    for flag in ("fold_A", "fold_B"):
        if not vars(opt)[flag].is_dir():
            raise UserError(f"--{flag} {vars(opt)[flag]} is not a folder; give that of train, …")
    endings = ("_A", "_B") if opt.use_AB else ("", "")
    pairs, *alone = pair_by_stem(str(opt.fold_A), str(opt.fold_B), *endings)
    found: list[Job] = []
    taken: dict[Path, int] = {}
    for A, B in pairs:
        name = Path(os.path.relpath(A, opt.fold_A))
        AB = opt.fold_AB / name.with_name(name.stem.removesuffix(endings[0]) + name.suffix)
        taken[AB.parent] = taken.get(AB.parent, 0) + 1
        if taken[AB.parent] <= opt.num_imgs:
            found.append((A, B, AB))
    return found, sorted(sum(alone, []))


def combine(job: Job) -> None:
    """Write one file: A on the left, B on the right.

    Raises:
        UserError: different sizes, an image that cannot be read, or a file that cannot be written.
    """
    path_A, path_B, path_AB = job
    A, B = read(path_A), read(path_B)
    if A.shape[:2] != B.shape[:2]:
        raise UserError(
            f"{path_A} is {A.shape[1]}x{A.shape[0]} but {path_B} is {B.shape[1]}x{B.shape[0]} "
            "pixels; the two of a pair must have the same size"
        )
    if A.dtype != B.dtype or A.shape[2] != B.shape[2]:
        raise UserError(
            f"{path_A} holds {described(A.dtype, A.shape[2])} and {path_B} "
            f"{described(B.dtype, B.shape[2])}, which one file cannot; leave them in two folders, "
            "trainA and trainB"
        )
    suffix = path_AB.suffix.lower()
    if not can_hold(suffix, A.dtype, A.shape[2]):
        raise UserError(
            f"{path_AB}: files of this kind do not hold {described(A.dtype, A.shape[2])}; leave A "
            "and B in two folders, trainA and trainB"
        )
    if problem := writing_problem(suffix, A.dtype, A.shape[2]):
        raise UserError(f"{path_AB}: {problem}")
    with explain_write_errors(path_AB, REMEDY):
        path_AB.parent.mkdir(parents=True, exist_ok=True)
    write_image(path_AB, np.concatenate((A, B), axis=1), REMEDY)


def read(path: str) -> np.ndarray:
    """An image as it is, (H, W, C), but for 8 bits, which become RGB without transparency."""
    image = read_image(path)
    return image if isinstance(image, np.ndarray) else np.asarray(image.convert("RGB"))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--fold_A", type=Path, required=True, help="folder of A")
    add("--fold_B", type=Path, required=True, help="folder of B")
    add("--fold_AB", type=Path, required=True, help="folder to write")
    add("--num_imgs", type=int, default=1000000, help="most pairs of each folder")
    add("--use_AB", action="store_true", help="names are x_A.jpg and x_B.jpg")
    add("--no_multiprocessing", action="store_true", help="one after the other")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the program; UserError with the whole message if it cannot be done."""
    opt = parse(argv)
    if opt.num_imgs < 1:
        raise UserError(f"--num_imgs {opt.num_imgs} must be at least 1")
    if opt.fold_AB.resolve() in (opt.fold_A.resolve(), opt.fold_B.resolve()):
        raise UserError(f"--fold_AB {opt.fold_AB} is where the images come from; name another")
    found, alone = jobs(opt)
    if alone:
        names = "\n".join(map(one_line, alone))
        print(printable(f"left out, {len(alone)} without a partner:\n{names}"), file=sys.stderr)
    if not found:
        raise UserError(f"no name is in both --fold_A {opt.fold_A} and --fold_B {opt.fold_B}")
    with ThreadPoolExecutor() as threads:  # PIL works outside of Python's lock
        done: Iterable[None] = map(combine, found)
        if not opt.no_multiprocessing:
            done = threads.map(combine, found)
        for _ in tqdm(done, total=len(found), unit="pair", disable=None):
            pass
    print(f"{len(found)} pairs are in {opt.fold_AB}")


if __name__ == "__main__":
    with one_message():
        main()
