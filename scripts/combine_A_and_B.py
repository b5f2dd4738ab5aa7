"""Join pictures of A and B side by side, as `--dataset_mode aligned` reads them.

    python scripts/combine_A_and_B.py --fold_A A --fold_B B --fold_AB AB

reads A/train/x.jpg and B/train/x.jpg (and val, test, or whatever folders there are) and writes
AB/train/x.jpg. A pair is found by its name; the two suffixes may differ, that of A is kept. With
--use_AB the names are x_A.jpg and x_B.jpg, in two folders or in one, and become x.jpg.
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.image_folder import FORMATS
from util.errors import UserError, one_line, one_message, printable

JPEG = {"quality": 95, "subsampling": 0}  # the usual ones smear the edges of label maps
SAVE_OPTIONS = {
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".webp": {"lossless": True},
    **dict.fromkeys([".png", ".ppm", ".bmp", ".tif", ".tiff"], {}),
}


class Pair(NamedTuple):
    """Two pictures and the file they become."""

    a: Path
    b: Path
    ab: Path


def list_images(folder: Path, ending: str) -> dict[Path, Path]:
    """Find the pictures in `folder` and in its folders, train, val and so on.

    Args:
        folder: where; links to folders are followed, hidden files are not looked at.
        ending: what the stems end in ("", "_A" or "_B"); other files are passed over.

    Returns:
        {path within `folder` without ending and suffix: path}, sorted.

    Raises:
        UserError: no such folder, or two pictures that differ only in their suffix.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; give those that hold train, val, ... of A and B"
        )
    found: dict[Path, Path] = {}
    for path in sorted([*folder.glob("[!.]*"), *folder.glob("*/[!.]*")]):
        if path.suffix.lower() not in SAVE_OPTIONS or not path.stem.endswith(ending):
            continue
        key = path.relative_to(folder).with_name(path.stem.removesuffix(ending))
        if key in found:
            raise UserError(f"{found[key]} and {path} differ only in their suffix; rename one")
        found[key] = path
    return found


def find_pairs(opt: argparse.Namespace) -> tuple[list[Pair], list[Path]]:
    """Match A with B.

    Returns:
        the pairs, at most `opt.num_imgs` of each folder, and the pictures that have no partner.
    """
    images_a = list_images(opt.fold_A, "_A" if opt.use_AB else "")
    images_b = list_images(opt.fold_B, "_B" if opt.use_AB else "")
    alone = [images_a.get(key) or images_b[key] for key in images_a.keys() ^ images_b.keys()]
    pairs, taken = [], dict.fromkeys((key.parent for key in images_a), 0)
    for key, a in images_a.items():
        if key in images_b and taken[key.parent] < opt.num_imgs:
            taken[key.parent] += 1
            pairs.append(Pair(a, images_b[key], opt.fold_AB / key.with_name(key.name + a.suffix)))
    return pairs, sorted(alone)


def read(path: Path) -> Image.Image:
    """Read a picture as RGB, upright.

    Raises:
        UserError: not a picture, truncated, or more than 8 bits per channel.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        raise UserError(f"cannot read {path} as a picture ({error}); mend or remove it") from error
    if upright.mode.startswith(("I", "F")):
        raise UserError(f"{path} has more than 8 bits per channel; convert it to 8 bits first")
    return upright.convert("RGB")


def combine(pair: Pair) -> None:
    """Write `pair.ab`: A on the left, B on the right.

    Raises:
        UserError: different sizes, or a picture that cannot be read.
        OSError: the disk is full or not writable.
    """
    a, b = read(pair.a), read(pair.b)
    if a.size != b.size:
        raise UserError(
            f"{pair.a} is {a.width}x{a.height} but {pair.b} is {b.width}x{b.height} pixels; "
            "the two of a pair must have the same size"
        )
    both = Image.new("RGB", (2 * a.width, a.height))
    both.paste(a, (0, 0))
    both.paste(b, (a.width, 0))
    pair.ab.parent.mkdir(parents=True, exist_ok=True)
    both.save(pair.ab, **SAVE_OPTIONS[pair.ab.suffix.lower()])


def combine_all(pairs: list[Pair], parallel: bool) -> Iterator[None]:
    """Combine all pairs, one after the other or in threads (PIL decodes without the GIL)."""
    if not parallel:
        yield from map(combine, pairs)
        return
    with ThreadPoolExecutor() as threads:
        yield from threads.map(combine, pairs)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fold_A", type=Path, required=True, help="folder of A")
    parser.add_argument("--fold_B", type=Path, required=True, help="folder of B")
    parser.add_argument("--fold_AB", type=Path, required=True, help="folder to write")
    parser.add_argument("--num_imgs", type=int, default=1000000, help="most pairs of each folder")
    parser.add_argument("--use_AB", action="store_true", help="names are x_A.jpg and x_B.jpg")
    parser.add_argument("--no_multiprocessing", action="store_true", help="one after the other")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the program.

    Raises:
        UserError: with the whole message.
    """
    opt = parse(argv)
    if opt.num_imgs < 1:
        raise UserError(f"--num_imgs {opt.num_imgs} must be at least 1")
    if opt.fold_AB.resolve() in (opt.fold_A.resolve(), opt.fold_B.resolve()):
        raise UserError(f"--fold_AB {opt.fold_AB} is where the pictures come from; name another")
    pairs, alone = find_pairs(opt)
    if alone:
        names = "\n".join(one_line(path) for path in alone)
        text = f"left out, {len(alone)} without a partner:\n{names}"
        print(printable(text), file=sys.stderr)
    if not pairs:
        raise UserError(f"no name is in both --fold_A {opt.fold_A} and --fold_B {opt.fold_B}")
    try:
        done = combine_all(pairs, not opt.no_multiprocessing)
        for _ in tqdm(done, total=len(pairs), unit="pair", disable=None):
            pass
    except OSError as error:
        raise UserError(f"cannot write in --fold_AB {opt.fold_AB}: {error}") from error
    print(f"{len(pairs)} pairs are in {opt.fold_AB}")


if __name__ == "__main__":
    with one_message():
        main()
