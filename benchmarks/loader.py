"""How fast are images loaded? Images/s of the plain path, of workers, and of --cache ram.

    python benchmarks/loader.py
    python benchmarks/loader.py --size 512 --batch_size 16 --preprocess scale_width_and_crop

Further options are those of train.py. The pictures are JPEGs drawn for the purpose, read from the
disk's cache: an image is decoded, resized, cropped, mirrored and made a tensor (one is A or one is
B). No training runs beside it. Before the clock starts, every row must give the same bits.

The rows take turns, round after round, so that what else the machine does meets them all; a ratio
is the median over rounds of a row's rate to the plain one's in the same round.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from data import cache, find_dataset_using_name  # noqa: E402
from data.loader import Loader, share_of_cores  # noqa: E402
from options.train_options import TrainOptions  # noqa: E402
from util import distributed  # noqa: E402
from util.errors import UserError  # noqa: E402

OPTIONS = ["--name", "benchmark", "--model", "cycle_gan", "--gpu_ids", "-1"]


@dataclass
class Row:
    """A way to load, and its rates so far (images/s)."""

    name: str
    loader: Loader
    rates: list[float] = field(default_factory=list)


def main() -> None:
    """Draw the pictures, time the rows in turn and print the table."""
    args, train_options = parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), args.pictures, args.size)
        opt = TrainOptions().parse(
            ["--dataroot", folder, "--checkpoints_dir", folder, *OPTIONS, *train_options]
        )
        print(where(args, train_options))
        rows, fill_rate = prepare_rows(opt, args.workers)
        same_bits(rows)
        for _ in range(args.rounds):
            for row in rows:
                row.rates.append(rate(row.loader, args.seconds))
    print("\n".join(table(rows)))
    print(f"filling the cache, once: {fill_rate:.0f} images/s on {share_of_cores()} threads")
    print(f"load {os.getloadavg()[0]:.1f} at the end")


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and those left over for train.py."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pictures", type=int, default=24, help="files, of A and of B each")
    add("--size", type=int, default=1024, help="width and height of a file")
    add("--rounds", type=int, default=7, help="how often each row is timed")
    add("--seconds", type=float, default=1, help="how long, at least")
    add("--workers", type=int, nargs="+", default=[2, 4], help="numbers of workers to compare")
    return parser.parse_known_args()


def draw(root: Path, count: int, size: int) -> None:
    """Pictures with some detail: noise, enlarged eight times."""
    noise = np.random.default_rng(0)
    for folder in (root / "trainA", root / "trainB"):
        folder.mkdir()
        for i in range(count):
            coarse = noise.integers(0, 256, (size // 8, size // 8, 3), np.uint8)
            image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
            image.save(folder / f"{i}.jpg", quality=90)


def prepare_rows(opt: argparse.Namespace, workers: Sequence[int]) -> tuple[list[Row], float]:
    """The ways to load; and how many images/s went into the cache."""
    new = find_dataset_using_name(opt.dataset_mode)
    plain, cached = new(opt), new(opt)
    start = time.perf_counter()
    cache.fill(cached)
    files = sum(len(paths) for _, paths in cached.to_cache())
    fill_rate = files / (time.perf_counter() - start)
    kinds = [("plain", plain, 0), *[("plain", plain, n) for n in workers]]
    kinds += [("--cache ram", cached, 0), *[("--cache ram", cached, n) for n in workers]]
    rows = []
    for name, dataset, count in kinds:
        opt.num_threads = count
        loader = Loader(dataset, opt)
        if loader.num_threads == count:  # no more workers than cores
            rows.append(Row(f"{name}, {count} workers", loader))
    return rows, fill_rate


def same_bits(rows: Sequence[Row]) -> None:
    """Load an epoch with every row: the workers start here, and what they load is compared."""
    expected = None
    for row in rows:
        row.loader.set_epoch(1)
        batches = [batch[side] for batch in row.loader for side in "AB"]
        expected = expected or batches
        if not all(map(torch.equal, batches, expected)):
            raise UserError(f"{row.name} loads other pixels than {rows[0].name}")


def rate(loader: Loader, least: float) -> float:
    """Images/s over whole epochs, of which there are enough to take `least` seconds."""
    images, start = 0, time.perf_counter()
    while time.perf_counter() < start + least:
        for batch in loader:
            images += len(batch["A"]) + len(batch["B"])
    return images / (time.perf_counter() - start)


def where(args: argparse.Namespace, train_options: Sequence[str]) -> str:
    """The machine and the task, in two lines."""
    return (
        f"{os.cpu_count()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the "
        f"start, {time.strftime('%Y-%m-%d')}\n{args.size}x{args.size} JPEG; train.py "
        f"{' '.join([*OPTIONS, *train_options])}"
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a Markdown table; the first row is the one the others are compared with."""
    yield "| loader | images/s: median (min to max) | to plain: median (min to max) |"
    yield "|---|---|---|"
    for row in rows:
        ratios = [a / b for a, b in zip(row.rates, rows[0].rates, strict=True)]
        yield f"| {row.name} | {spread(row.rates, '{:.0f}')} | {spread(ratios, '{:.2f}')} |"


def spread(values: Sequence[float], form: str) -> str:
    """Median, minimum and maximum."""
    middle, low, high = (form.format(f(values)) for f in (statistics.median, min, max))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    distributed.run(main)
