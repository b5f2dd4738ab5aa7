"""How fast is this checkout of the project against another one? Seconds, and before/after.

    git worktree add /tmp/before COMMIT
    python benchmarks/before_after.py --before /tmp/before
    python benchmarks/before_after.py --before /tmp/before --only "pix2pix bf16" --rounds 20

Each case has two processes, one for each checkout, which make their rounds in turn. Networks are
the defaults, for 256x256 pixels; steps are at batch 1, on images in memory. Tests are whole runs
from files to pages, see benchmarks/infer.py.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import harness
from runs import NETWORKS, TestingRun, TrainingStep

BF16 = ["--precision", "bf16"]
CASES = {  # train.py --model, or a name in NETWORKS; further options
    "cycle_gan fp32": ("cycle_gan", ["--precision", "fp32"]),
    "cycle_gan bf16": ("cycle_gan", BF16),
    "pix2pix fp32": ("pix2pix", ["--precision", "fp32"]),
    "pix2pix bf16": ("pix2pix", BF16),
    "test resnet": ("resnet", []),
    "test resnet bf16, batch 8": ("resnet", [*BF16, "--batch_size", "8"]),
    "test unet": ("unet", []),
    "test unet bf16, batch 8, --eval": ("unet", [*BF16, "--batch_size", "8", "--eval"]),
}


def main() -> None:
    """Measure every case and print the table."""
    parser = harness.parser(__doc__, 9, CASES)
    add = parser.add_argument
    add("--before", type=Path, required=True, help="the other checkout, an older one")
    add("--images", type=int, help="of a test, in place of the network's number")
    add("--train_options", default="", help='for the steps, such as "--crop_size 128 --ngf 16"')
    args = parser.parse_args()
    if not (args.before / "train.py").is_file():
        parser.error(f"--before {args.before}: no checkout of this project, it has no train.py")
    harness.start(parser, args)
    rows = []
    for case in args.only:
        table = measure(case, args)
        columns = (table["before"], table["after"], table.ratios("after"))
        rows.append((case, *map(harness.spread, columns)))
        print(*rows[-1], file=sys.stderr, flush=True)
    heads = ("case", "before, s: median (min to max)", "after, s", "before/after")
    print(harness.markdown(heads, rows))


def measure(case: str, args: argparse.Namespace) -> harness.Table:
    """The rounds of a case."""
    name, flags = CASES[case]
    flags = [*flags, "--gpu_ids", "-1" if args.device == "cpu" else "0"]
    argv = ["--dataroot", "none", "--model", name, *flags, *args.train_options.split()]
    run = partial(TrainingStep, argv=argv, count=20 if args.device == "cuda" else 1)
    if name in NETWORKS:
        images = args.images or NETWORKS[name].images
        run = partial(TestingRun, name=name, flags=flags, images=images)
    builds = {"before": partial(run, args.before.resolve()), "after": partial(run, harness.ROOT)}
    with harness.workers(builds, args.threads) as workers:
        return harness.compare(workers, args.rounds, args.limit, warm_ups=2)


if __name__ == "__main__":
    main()
