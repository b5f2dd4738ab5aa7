"""Large images in tiles: seconds beside the whole forward pass, difference, and peak memory.

    python benchmarks/infer.py --large
    python benchmarks/infer.py --large --sizes 10000x8000

resnet_9blocks with 64 channels and instance norm, random weights. Where the whole pass may fit
(1536x1024 and 1537x1023), the two take turns; larger images are translated once, in a process of
their own, by test.py from a file to a file, whose peak of resident memory is printed.
"""

import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import harness
import torch

SIZES = ["1536x1024", "1537x1023", "5000x4000"]
FITS = 2_000_000  # pixels
OPTIONS = ["--netG", "resnet_9blocks", "--norm", "instance", "--no_dropout", "--name", "large"]


def compare(width: int, height: int, rounds: int) -> list[str]:
    """A row: the whole pass and the tiles, alternating, and how their images differ."""
    from models.inference.any_size import take_any_size
    from models.networks import cpu_layers, define_G

    torch.manual_seed(0)
    whole, tiled = (define_G(3, 3, 64, "resnet_9blocks", "instance") for _ in "ab")
    tiled.load_state_dict(whole.state_dict())
    for net in (whole, tiled):
        cpu_layers.swap_in(net, torch.device("cpu"), "fp32", training=False)
    take_any_size([tiled], 512, 256)
    image = torch.rand(1, 3, height, width) * 2 - 1
    with torch.no_grad():
        levels = (tiled(image) - whole(image)).abs() * 127.5
        ways = {"whole": whole, "tiles": tiled}
        calls = {name: partial(harness.timed, partial(net, image)) for name, net in ways.items()}
        table = harness.compare(calls, rounds, warm_ups=0)
    seconds, ratio = (harness.spread(x) for x in (table["tiles"], table.ratios("tiles")))
    return [f"{width}x{height}", seconds, ratio, f"{levels.mean():.2g}, {levels.max():.2g}", ""]


def translate(width: int, height: int) -> list[str]:
    """A row: test.py on one file, in a process of its own."""
    from PIL import Image

    from models.networks import define_G

    with tempfile.TemporaryDirectory(dir=".") as folder:
        root = Path(folder)
        (root / "ck" / "large").mkdir(parents=True)
        weights = define_G(3, 3, 64, "resnet_9blocks", "instance").state_dict()
        torch.save(weights, root / "ck" / "large" / "latest_net_G.pth")
        noise = Image.effect_noise((width, height), 60).convert("RGB")
        noise.save(root / "image.png", compress_level=1)
        argv = ["--dataroot", str(root / "image.png"), "--checkpoints_dir", str(root / "ck")]
        argv += ["--results_dir", str(root / "results"), "--preprocess", "none", "--tile", "512"]
        command = [sys.executable, str(harness.ROOT / "test.py"), *argv, *OPTIONS]
        start = time.perf_counter()
        subprocess.run([*command, "--gpu_ids", "-1"], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return [f"{width}x{height}", f"{seconds:.0f}", "", "", f"{peak:.2f}"]


def main(sizes: list[str], rounds: int) -> None:
    """Print the table, row by row."""
    heads = ("resnet_9blocks", "seconds in tiles", "ratio to the whole pass")
    heads += ("levels of 255: mean, largest", "peak memory of test.py, GiB")
    for size in sizes:
        width, height = map(int, size.split("x"))
        fits = width * height <= FITS
        row = compare(width, height, rounds) if fits else translate(width, height)
        print(harness.markdown(heads, [row]), flush=True)
