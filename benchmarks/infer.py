"""How fast does test.py test? Images/s from files to pictures, and the ratio to a plain loop.

    python benchmarks/infer.py                       # this CPU, 4 threads
    python benchmarks/infer.py --only unet --rounds 7
    python benchmarks/infer.py --device cuda

The plain loop is the textbook: batch 1, float32, torch's own layers; read, translate, save, one
after the other. It and the ways to call test.py take turns over the same files, several rounds, so
that what else the machine does meets them all; compare ratios, not runs. A first round, with its
starting of workers and compiling, is thrown away. Loading weights is left out on both sides.

ResNet: --model test, one generator of a CycleGAN, which saves 2 pictures for each image. U-Net:
--model pix2pix with its batch norm and dropout as in training, which saves 3. The weights are
random: what is computed does not depend on them, how well a picture compresses does a little.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import test  # noqa: E402
from benchmarks.plain_step import with_torch_s_convolutions  # noqa: E402
from data import create_dataset  # noqa: E402
from models.inference.batching import ImageBatches  # noqa: E402
from models.networks.generators import ResnetGenerator, UnetGenerator  # noqa: E402
from options.test_options import TestOptions, one_by_one  # noqa: E402
from util import distributed, rng  # noqa: E402
from util.devices import existing_gpus  # noqa: E402
from util.errors import UserError  # noqa: E402
from util.precision import configure  # noqa: E402

INSTANCE = partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
MANY = ["--precision", "bf16", "--batch_size", "8"]


@dataclass
class Case:
    """A network, the command line that tests it, and how many images a round takes."""

    build: Callable[[], nn.Module]
    options: list[str]
    images: int
    paired: bool


@dataclass
class Row:
    """A way to test: what a round calls, and the rates of the rounds so far (images/s)."""

    name: str
    round: Callable[[], int]
    rates: list[float] = field(default_factory=list)


CASES = {
    "resnet": Case(
        partial(ResnetGenerator, 3, 3, 64, INSTANCE, False, 9),
        ["--model", "test", "--no_dropout"],
        images=24,
        paired=False,
    ),
    "unet": Case(
        partial(UnetGenerator, 3, 3, 8, 64, nn.BatchNorm2d, True),
        ["--model", "pix2pix"],
        images=64,
        paired=True,
    ),
}
WAYS = {
    "test.py": [],
    "--batch_size 8": ["--batch_size", "8"],
    "--precision bf16": ["--precision", "bf16"],
    "--precision bf16 --batch_size 8": MANY,
    "the same, --eval": [*MANY, "--eval"],
    "the same, --eval --compile": [*MANY, "--eval", "--compile"],
}


# ---- the textbook ----------------------------------------------------------------------------


def plain_loop(net: nn.Module, files: Sequence[Path], paired: bool, folder: Path, device) -> int:
    """Read, translate and save, image by image; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        pictures = {"real_A": read(path, paired).to(device)}
        with torch.no_grad():
            pictures["fake_B"] = net(pictures["real_A"])
        if paired:
            pictures["real_B"] = read(path, paired, right=True)
        for name, picture in pictures.items():
            to_image(picture).save(folder / f"{path.stem}_{name}.png")
    return len(files)


def read(path: Path, paired: bool, right: bool = False) -> Tensor:
    """(1, 3, 256, 256) in [-1, 1]: the picture, or its left or right half."""
    image = Image.open(path).convert("RGB")
    if paired:
        half = image.width // 2
        image = image.crop((half * right, 0, half * (1 + right), image.height))
    pixels = np.asarray(image.resize((256, 256), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None].contiguous()


def to_image(picture: Tensor) -> Image.Image:
    """The first of (1, 3, H, W) in [-1, 1]."""
    pixels = (picture[0].cpu().permute(1, 2, 0).numpy() + 1) / 2 * 255
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


# ---- ours ------------------------------------------------------------------------------------


def way_to_test(case: Case, argv: Sequence[str], folder: Path) -> Callable[[], int]:
    """A round of test.py, from files to pictures and page; its model and workers stay."""
    opt = TestOptions().parse(argv)
    configure(opt.device, opt.precision)
    rng.seed_everything(opt.seed)
    loader = create_dataset(one_by_one(opt))
    model = test.ready_model(opt)
    batches = ImageBatches(model, opt.batch_size, opt.compile)
    test.results_folder(opt)
    return lambda: test.test_images(model, loader, batches, opt, test.results_folder(opt))


# ---- rounds and table ------------------------------------------------------------------------


def main() -> None:
    """Measure every case and print its table."""
    args = parse()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device cuda: {existing_gpus()}; leave it out to measure the CPU")
    torch.set_num_threads(args.threads)
    print(where(args))
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            rows = measure(CASES[name], args, Path(folder) / name)
            print(f"\n{name}: test.py {' '.join(CASES[name].options)}\n")
            print("\n".join(table(rows)), flush=True)
            shutil.rmtree(Path(folder) / name)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


def parse() -> argparse.Namespace:
    """The options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--only", nargs="+", choices=CASES, default=list(CASES), help="which networks")
    add("--ways", nargs="+", type=int, help="which rows of ours, counted from 1; all if left out")
    add("--images", type=int, help="images of a round, in place of the case's own number")
    add("--rounds", type=int, default=5, help="rounds, after the one that is thrown away")
    add("--threads", type=int, default=4, help="torch's threads")
    add("--compile", action="store_true", help="add the row with --compile")
    return parser.parse_args()


def measure(case: Case, args: argparse.Namespace, folder: Path) -> list[Row]:
    """Prepare files, weights and ways, and let them take turns."""
    data, device = folder / "data", torch.device(args.device)
    files = write_pictures(data, args.images or case.images * (8 if device.type == "cuda" else 1),
                           case.paired)  # fmt: skip
    net = with_torch_s_convolutions(case.build())
    (folder / "checkpoints" / "n").mkdir(parents=True)
    torch.save(net.state_dict(), folder / "checkpoints" / "n" / "latest_net_G.pth")
    plain = partial(plain_loop, net.to(device), files, case.paired, folder / "plain", device)
    rows = [Row("plain loop", plain)]
    common = ["--dataroot", str(data.parent if case.paired else data), "--name", "n"]
    common += ["--checkpoints_dir", str(folder / "checkpoints"), *case.options]
    common += ["--phase", "data"] + (["--gpu_ids", "-1"] if device.type == "cpu" else [])
    for name, flags in chosen(args):
        argv = [*common, *flags, "--results_dir", str(folder / str(len(rows)))]
        rows.append(Row(name, way_to_test(case, argv, folder)))
    for _ in range(args.rounds + 1):
        for row in rows:
            row.rates.append(rate(row, device))
    for row in rows:
        del row.rates[0]
    return rows


def chosen(args: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """The ways to measure."""
    for number, (name, flags) in enumerate(WAYS.items(), start=1):
        if args.ways and number not in args.ways:
            continue
        if args.compile or "--compile" not in flags:
            yield name, flags


def rate(row: Row, device: torch.device) -> float:
    """Images/s of one round."""
    start = time.perf_counter()
    count = row.round()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return count / (time.perf_counter() - start)


def write_pictures(folder: Path, count: int, paired: bool) -> list[Path]:
    """Pictures of 256x256, or pairs side by side: as smooth and as noisy as photographs."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    files = [folder / f"{i:04d}.jpg" for i in range(count)]
    for path in files:
        coarse = random.integers(0, 256, (12, 24 if paired else 12, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((512 if paired else 256, 256), Image.BICUBIC)
        noisy = np.asarray(image) + random.normal(0, 4, (256, image.width, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return files


def where(args: argparse.Namespace) -> str:
    """The machine, in one line."""
    name = existing_gpus() if args.device == "cuda" else f"{os.cpu_count()} cores"
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    date = time.strftime("%Y-%m-%d")
    return f"{name}, {args.threads} threads, torch {torch.__version__}, {load}, {date}"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a Markdown table; the first row is the one the others are compared with."""
    yield "| | images/s: median (min to max) | ratio to plain, round by round |"
    yield "|---|---|---|"
    for row in rows:
        ratios = [ours / plain for ours, plain in zip(row.rates, rows[0].rates, strict=True)]
        yield f"| {row.name} | {spread(row.rates)} | {spread(ratios)} |"


def spread(values: Sequence[float]) -> str:
    """Median, minimum and maximum."""
    middle, low, high = (f"{f(values):.2f}" for f in (statistics.median, min, max))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    distributed.run(main)
