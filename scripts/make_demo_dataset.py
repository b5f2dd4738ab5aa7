"""Draw a dataset like facades to try the models on: photographs of buildings and their label maps.

    python scripts/make_demo_dataset.py

makes ./datasets/demo (pairs for pix2pix: left the photograph, A, and right the label map, B) and
./datasets/demo_unpaired (for CycleGAN: photographs in trainA, and in trainB the label maps of
other buildings). The same options give the same images; the same command continues a run that was
cut off.
"""

import argparse
import json
import multiprocessing
import os
import shlex
import sys
from collections.abc import Iterator
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.demo_facades.drawing import draw_pair
from util.errors import UserError, one_message
from util.files import atomic_write

NOTE = "demo_dataset.json"  # in each folder that we make: what its images depend on
NUMBERS = {  # option: least value, default, help
    "seed": (0, 0, "another seed, other buildings"),
    "size": (64, 256, "width and height of an image, in pixels"),
    "train": (1, 200, "buildings in the training set"),
    "val": (0, 20, "buildings in the validation set"),
    "test": (0, 20, "buildings in the test set"),
    "workers": (1, min(os.cpu_count() or 1, 8), "processes that draw; they do not change images"),
}
Building = tuple[str, int, dict[str, Path]]  # split, index in it, {"pair": its file, ...}


def main(argv: list[str] | None = None) -> None:
    """Make both datasets, and print how to train on them.

    Raises:
        UserError: a folder holds something that we did not make, or cannot be written.
    """
    opt = parse(argv)
    out = opt.out if opt.out.name not in ("", "..") else opt.out.resolve()  # ".", "a/..": no name
    unpaired = out.parent / f"{out.name}_unpaired"
    recipe = {name: getattr(opt, name) for name in NUMBERS if name != "workers"}
    note = json.dumps({**recipe, "version": 4}, indent=1) + "\n"  # the version of the drawing
    try:
        for folder in (out, unpaired):
            refuse_foreign(folder, note)
        for folder in (out, unpaired):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / NOTE).write_text(note)
        draw_missing(list(buildings(out, unpaired, opt)), opt)
    except OSError as error:
        raise UserError(
            f"--out {opt.out}: cannot write there ({error}); give a folder that you may write, "
            "with room for about 40 MB"
        ) from error
    print(
        f"pairs are in {out}, unpaired images in {unpaired}; train with: python train.py "
        f"--dataroot {shlex.quote(str(out))} --name demo_pix2pix --model pix2pix --direction BtoA"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    usage = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], formatter_class=usage)
    where = "folder of the pairs; unpaired images go to OUT_unpaired"
    parser.add_argument("--out", type=Path, default=Path("./datasets/demo"), help=where)
    for name, (_, default, text) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    opt = parser.parse_args(argv)
    for name, (least, *_) in NUMBERS.items():
        if getattr(opt, name) < least:
            parser.error(f"argument --{name}: {getattr(opt, name)} is less than {least}")
    return opt


def refuse_foreign(folder: Path, note: str) -> None:
    """Raise UserError if the folder holds anything but images that depend on the same options."""
    path = folder / NOTE
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not path.exists():
        raise UserError(f"{folder} is not empty; give another folder with --out, or empty it")
    if path.read_text() != note:
        raise UserError(
            f"{folder} holds a demo dataset of other options (see {path}); "
            "delete it, or give another folder with --out"
        )


def buildings(paired: Path, unpaired: Path, opt: argparse.Namespace) -> Iterator[Building]:
    """Every building of both datasets.

    What has a label map in it is a PNG, for exact colours. The buildings of trainB and testB stand
    nowhere else, and no name is in A and in B: pix2pix would take such files for a pair.
    """
    for split in ("train", "val", "test"):
        for index in range(1, getattr(opt, split) + 1):
            files = {"pair": paired / split / f"{index:04d}.png"}
            if split != "val":
                files["photo"] = unpaired / f"{split}A" / f"photo{index:04d}.jpg"
                label = unpaired / f"{split}B" / f"label{index:04d}.png"
                yield f"{split}B", index, {"label": label}
            yield split, index, files


def draw_missing(todo: list[Building], opt: argparse.Namespace) -> None:
    """Draw the buildings whose files are not all there."""
    todo = [each for each in todo if not all(path.exists() for path in each[2].values())]
    # spawn: the same on every system, and safe where the caller has threads
    pool_of = ThreadPool if opt.workers == 1 else multiprocessing.get_context("spawn").Pool
    with pool_of(opt.workers) as pool:
        drawn = pool.imap(partial(draw, opt), todo, chunksize=4)
        list(tqdm(drawn, total=len(todo), unit="building", disable=None))


def draw(opt: argparse.Namespace, building: Building) -> None:
    """Draw one building and write its files."""
    split, index, files = building
    photo, label = draw_pair(opt.seed, split, index, opt.size)
    images = {"photo": photo, "label": label, "pair": np.concatenate([photo, label], axis=1)}
    for name, path in files.items():
        path.parent.mkdir(exist_ok=True)
        kind = "JPEG" if path.suffix == ".jpg" else "PNG"
        with atomic_write(path) as file:
            Image.fromarray(images[name]).save(file, kind, quality=95, subsampling=0)


if __name__ == "__main__":
    with one_message():
        main()
