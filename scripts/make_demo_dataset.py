"""Draw a facades-like set to try the models on: photographs of buildings and their label maps.

    python scripts/make_demo_dataset.py

makes ./datasets/demo (pairs for pix2pix: left the photograph, A, and right the label map, B) and
./datasets/demo_unpaired (for CycleGAN: photographs in trainA, and in trainB the label maps of
other buildings). The same options give the same pictures; a run that was cut off goes on where it
stopped when the same command is given again.
"""

import argparse
import json
import multiprocessing
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.demo_facades import draw_label, draw_pair
from util.errors import UserError, one_message

NOTE = "demo_dataset.json"  # in each folder that we make: the recipe of what is in it
MIN_SIZE = 64
FORMATS = {".png": "PNG", ".jpg": "JPEG"}


@dataclass(frozen=True)
class Recipe:
    """What the pictures depend on; raise `version` when the drawing program changes."""

    seed: int
    size: int
    train: int
    val: int
    test: int
    version: int = 2


@dataclass(frozen=True)
class Job:
    """One building, and the files to make of it (None: not this one)."""

    split: str
    index: int
    pair: Path | None = None
    photo: Path | None = None
    label: Path | None = None

    def missing(self) -> bool:
        """Whether any of the files has still to be made."""
        return any(path and not path.exists() for path in (self.pair, self.photo, self.label))


def main(argv: list[str] | None = None) -> None:
    """Make both sets, and say how to train on them.

    Raises:
        UserError: a folder holds something that we did not make, or cannot be written.
    """
    opt = build_parser().parse_args(argv)
    recipe = Recipe(opt.seed, opt.size, opt.train, opt.val, opt.test)
    paired, unpaired = opt.out, unpaired_folder(opt.out)
    try:
        for folder in (paired, unpaired):
            refuse_foreign(folder, recipe)
        for folder in (paired, unpaired):
            prepare(folder, recipe)
        draw_all(list(jobs(paired, unpaired, recipe)), recipe, opt.workers)
    except OSError as error:
        raise UserError(
            f"--out {opt.out}: cannot write there ({error}); give a folder that you may write, "
            "with room for about 40 MB"
        ) from error
    print(
        f"pairs are in {paired}, unpaired pictures in {unpaired}; train with: python train.py "
        f"--dataroot {shlex.quote(str(paired))} --name demo_pix2pix --model pix2pix "
        "--direction BtoA"
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    usage = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], formatter_class=usage)
    count, some = partial(whole_number, least=0), partial(whole_number, least=1)
    parser.add_argument(
        "--out", type=Path, default=Path("./datasets/demo"),
        help="folder of the pairs; the unpaired pictures go to OUT_unpaired beside it",
    )  # fmt: skip
    parser.add_argument("--seed", type=count, default=0, help="another seed, other buildings")
    parser.add_argument("--size", type=partial(whole_number, least=MIN_SIZE), default=256,
                        help="width and height of a picture, in pixels")  # fmt: skip
    parser.add_argument("--train", type=some, default=200, help="buildings in the training set")
    parser.add_argument("--val", type=count, default=20, help="buildings in the validation set")
    parser.add_argument("--test", type=count, default=20, help="buildings in the test set")
    parser.add_argument("--workers", type=some, default=min(os.cpu_count() or 1, 8),
                        help="processes that draw; the pictures do not depend on it")  # fmt: skip
    return parser


def whole_number(text: str, least: int) -> int:
    """Read a count from the command line."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return value


def unpaired_folder(paired: Path) -> Path:
    """OUT_unpaired, beside OUT."""
    if paired.name in ("", ".."):  # ".", "..", "a/..": only the whole path has its name
        paired = paired.resolve()
    return paired.parent / f"{paired.name}_unpaired"


def refuse_foreign(folder: Path, recipe: Recipe) -> None:
    """Raise UserError if the folder holds anything but pictures of the same recipe."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    note = folder / NOTE
    if not note.exists():
        raise UserError(f"{folder} is not empty; give another folder with --out, or empty it")
    if note.read_text() != to_text(recipe):
        raise UserError(
            f"{folder} holds a demo set of other options (see {note}); "
            "delete it, or give another folder with --out"
        )


def prepare(folder: Path, recipe: Recipe) -> None:
    """Make the folder, and leave the recipe in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NOTE).write_text(to_text(recipe))


def to_text(recipe: Recipe) -> str:
    """The recipe as it is written to a note."""
    return json.dumps(asdict(recipe), indent=1) + "\n"


def jobs(paired: Path, unpaired: Path, recipe: Recipe) -> Iterator[Job]:
    """Every building of both sets.

    What has a label map in it is a PNG, for exact colours; a photograph alone is a JPEG, a third
    of the size. The buildings of trainB and testB are drawn for it and stand nowhere else, and no
    name is in A and in B: pix2pix would take such files for a pair.
    """
    for split in ("train", "val", "test"):
        for index in range(1, getattr(recipe, split) + 1):
            name = f"{index:04d}"
            pair = paired / split / f"{name}.png"
            if split == "val":
                yield Job(split, index, pair=pair)
            else:
                photo = unpaired / f"{split}A" / f"photo{name}.jpg"
                yield Job(split, index, pair=pair, photo=photo)
                label = unpaired / f"{split}B" / f"label{name}.png"
                yield Job(f"{split}B", index, label=label)


def draw_all(todo: list[Job], recipe: Recipe, workers: int) -> None:
    """Draw what is not there yet, in this process or in several others."""
    for folder in {
        path.parent for job in todo for path in (job.pair, job.photo, job.label) if path
    }:
        folder.mkdir(exist_ok=True)
    todo = [job for job in todo if job.missing()]
    work = partial(draw, seed=recipe.seed, size=recipe.size)
    bar = partial(tqdm, total=len(todo), unit="building", disable=None)
    if workers == 1 or len(todo) < 2:
        list(bar(map(work, todo)))
        return
    # spawn: the same on every system, and safe where the caller has threads
    with multiprocessing.get_context("spawn").Pool(min(workers, len(todo))) as pool:
        list(bar(pool.imap_unordered(work, todo, chunksize=4)))


def draw(job: Job, seed: int, size: int) -> None:
    """Draw one building and write its files."""
    if job.label:
        save(draw_label(seed, job.split, job.index, size), job.label)
        return
    photo, label = draw_pair(seed, job.split, job.index, size)
    if job.photo:
        save(photo, job.photo, quality=95, subsampling=0)
    if job.pair:
        save(np.concatenate([photo, label], axis=1), job.pair, compress_level=4)


def save(image: np.ndarray, path: Path, **options: int) -> None:
    """Write a picture under another name first: a file of this name is always a whole one."""
    part = path.with_name(f"{path.name}.part")  # no suffix that a data loader would look for
    Image.fromarray(image).save(part, FORMATS[path.suffix], **options)
    part.replace(path)


if __name__ == "__main__":
    with one_message():
        main()
