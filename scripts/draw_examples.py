"""Draw small datasets that are not 8-bit photographs, for the examples of docs/data.md.

    python scripts/draw_examples.py ct
    python scripts/draw_examples.py satellite

make ./datasets/ct and ./datasets/satellite, each with trainA, trainB, testA and testB, pairs by
name. In ct, A are noisy slices in Hounsfield units, int16, and B the same without noise. In
satellite, A are red, green, blue and near infrared, uint16, and B an index of the vegetation, -1 to
1, in float32. All are NPY files, which need no other library.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.image_io import write_image  # noqa: E402
from util.errors import one_message  # noqa: E402

SIZE = 64
AIR, WATER, BONE = -1000, 0, 900  # Hounsfield units


def ct(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A slice of a body with a spine, with and without noise."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    width, height = draw.uniform(0.6, 0.9), draw.uniform(0.5, 0.8)
    tissue = WATER + 60 * np.sin(draw.uniform(4, 8) * x + draw.uniform(0, 6))
    slice_ = np.where((x / width) ** 2 + (y / height) ** 2 < 1, tissue, AIR)
    slice_ = np.where(x**2 + (y - height / 2) ** 2 < draw.uniform(0.1, 0.15) ** 2, BONE, slice_)
    noisy = slice_ + draw.normal(0, 80, slice_.shape)
    return tuple(image.round().astype(np.int16)[..., None] for image in (noisy, slice_))


def satellite(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Fields, some of them green, and their index (nir - red) / (nir + red)."""
    fields = draw.uniform(0, 1, (4, 4)).repeat(SIZE // 4, 0).repeat(SIZE // 4, 1)
    texture = draw.uniform(0.95, 1.05, (SIZE, SIZE))
    bands = np.stack([0.30 - 0.22 * fields, 0.20 - 0.05 * fields, 0.15 - 0.08 * fields,
                      0.20 + 0.40 * fields], axis=-1)  # fmt: skip
    bands *= texture[..., None]
    red, infrared = bands[..., :1], bands[..., 3:]
    index = (infrared - red) / (infrared + red)
    return (bands * 65535).round().astype(np.uint16), index.astype(np.float32)


KINDS = {"ct": ct, "satellite": satellite}


def main(argv: list[str] | None = None) -> None:
    """Draw a dataset; UserError if it cannot be written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--out", type=Path, default=Path("datasets"), help="folder to put it in")
    parser.add_argument("--train", type=int, default=40, help="pairs to train on")
    parser.add_argument("--test", type=int, default=5, help="pairs to test on")
    opt = parser.parse_args(argv)
    draw = np.random.default_rng(0)
    for part, count in (("train", opt.train), ("test", opt.test)):
        for side in "AB":
            (opt.out / opt.kind / (part + side)).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            for side, image in zip("AB", KINDS[opt.kind](draw), strict=True):
                write_image(opt.out / opt.kind / (part + side) / f"{number:03d}.npy", image)
    print(f"{opt.train} pairs to train on and {opt.test} to test on are in {opt.out / opt.kind}")


if __name__ == "__main__":
    with one_message():
        main()
