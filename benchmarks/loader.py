"""How fast are images loaded? Images/s of the plain path, of workers, and of --cache ram.

    python benchmarks/loader.py
    python benchmarks/loader.py --size 512 --batch_size 16 --preprocess scale_width_and_crop

Further options are those of train.py. The files are JPEGs made for the purpose, read from the page
cache. No training runs beside it. A round is whole epochs, enough of them to take --seconds.
"""

import os
import tempfile
import time
from functools import partial
from pathlib import Path

import harness

from data import create_dataset
from data.loader import Loader
from options.train_options import TrainOptions
from util import distributed

OPTIONS = ["--name", "benchmark", "--model", "cycle_gan", "--gpu_ids", "-1"]


def main() -> None:
    """Make the files, time the loaders in turn and print the table."""
    parser = harness.parser(__doc__, 7, ())
    add = parser.add_argument
    add("--images", type=int, default=24, help="files, of A and of B each")
    add("--size", type=int, default=1024, help="width and height of a file")
    add("--seconds", type=float, default=1, help="of a round, at least")
    add("--workers", type=int, nargs="+", default=[4], help="numbers of workers beside 0")
    args, train_options = parser.parse_known_args()
    args.threads = args.threads or 1  # what a worker has
    harness.start(parser, args)
    variants = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in "AB":
            harness.write_images(Path(folder, f"train{side}"), args.images, args.size, args.size)
        common = ["--dataroot", folder, "--checkpoints_dir", folder, *OPTIONS, *train_options]
        for cache in ("none", "ram"):
            for workers in (0, *(n for n in args.workers if n <= (os.cpu_count() or 1))):
                flags = ["--cache", cache, "--num_threads", str(workers)]
                loader = create_dataset(TrainOptions().parse([*common, *flags]))
                name = "plain" if cache == "none" else "`--cache ram`"
                variants[f"{name}, {workers} workers"] = partial(load, loader, args.seconds)
        table = harness.compare(variants, args.rounds, args.limit)
    print(table.markdown("loader", images=1))


def load(loader: Loader, least: float) -> float:
    """Seconds per image over whole epochs, of which there are enough to take `least` seconds."""
    images, start = 0, time.perf_counter()
    while time.perf_counter() < start + least:
        images += sum(batch[side].shape[0] for batch in loader for side in "AB")
    return (time.perf_counter() - start) / images


if __name__ == "__main__":
    distributed.run(main)
