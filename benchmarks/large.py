"""Large images in tiles: seconds beside the whole forward pass, difference, and peak memory.

    python benchmarks/infer.py --large
    python benchmarks/infer.py --large --sizes 10000x8000
    python benchmarks/infer.py --large --only unet --tile 0 --sizes 3072x2560

resnet_9blocks and unet_256 with 64 channels, random weights. Where the whole pass of the ResNet may
fit (1536x1024 and 1537x1023), the two take turns; other images are translated once, in a process of
their own, by test.py from a file to a file, whose peak of resident memory is printed. `--tile 0`:
the whole pass in test.py, for the numbers in models/inference/any_size.py.
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import harness
import torch
from runs import NETWORKS

SIZES = ["1536x1024", "1537x1023", "5000x4000"]
FITS = 2_000_000  # pixels
OPTIONS = ["--preprocess", "none", "--no_dropout", "--name", "large", "--gpu_ids", "-1"]


def compare(width: int, height: int, rounds: int, tile: str) -> list[str]:
    """A row: the whole pass and the tiles, alternating, and how their images differ."""
    from models.inference.any_size import take_any_size
    from models.networks import cpu_layers, define_G

    torch.manual_seed(0)
    whole, tiled = (define_G(3, 3, 64, "resnet_9blocks", "instance") for _ in "ab")
    tiled.load_state_dict(whole.state_dict())
    for net in (whole, tiled):
        cpu_layers.swap_in(net, torch.device("cpu"), "fp32", training=False)
    take_any_size([tiled], int(tile), 256)
    image = torch.rand(1, 3, height, width) * 2 - 1
    with torch.no_grad():
        levels = (tiled(image) - whole(image)).abs() * 127.5
        ways = {"whole": whole, "tiles": tiled}
        calls = {name: partial(harness.timed, partial(net, image)) for name, net in ways.items()}
        table = harness.compare(calls, rounds, warm_ups=0)
    seconds, ratio = (harness.spread(x) for x in (table["tiles"], table.ratios("tiles")))
    return [f"{width}x{height}", seconds, ratio, f"{levels.mean():.2g}, {levels.max():.2g}", ""]


def translate(name: str, width: int, height: int, tile: str) -> list[str]:
    """A row: test.py on one file, in a process of its own."""
    from PIL import Image

    from models.networks import define_G

    netG, norm = NETWORKS[name][:2]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        root = Path(folder)
        (root / "ck" / "large").mkdir(parents=True)
        weights = define_G(3, 3, 64, netG, norm).state_dict()
        torch.save(weights, root / "ck" / "large" / "latest_net_G.pth")
        noise = Image.effect_noise((width, height), 60).convert("RGB")
        noise.save(root / "image.png", compress_level=1)
        argv = ["--dataroot", str(root / "image.png"), "--checkpoints_dir", str(root / "ck")]
        argv += ["--results_dir", str(root / "results"), "--tile", tile, *OPTIONS]
        argv += ["--netG", netG, "--norm", norm]
        start = time.perf_counter()
        command = [sys.executable, str(harness.ROOT / "test.py"), *argv]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)  # RUSAGE_CHILDREN: the most of all so far
        seconds = time.perf_counter() - start
    if status:
        sys.exit(f"test.py failed at {width}x{height}: status {status}")
    return [f"{width}x{height}", f"{seconds:.0f}", "", "", f"{usage.ru_maxrss / 2**20:.2f}"]


def main(names: list[str], sizes: list[str], rounds: int, tile: str) -> None:
    """Print the table, row by row."""
    for name, size in ((name, size) for name in names for size in sizes):
        heads = (f"{NETWORKS[name].netG}, --tile {tile}", "seconds", "ratio to the whole pass")
        heads += ("levels of 255: mean, largest", "peak memory of test.py, GiB")
        width, height = map(int, size.split("x"))
        both = name == "resnet" and tile != "0" and width * height <= FITS
        row = compare(width, height, rounds, tile) if both else translate(name, width, height, tile)
        print(harness.markdown(heads, [row]), flush=True)
