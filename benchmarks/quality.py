"""Does bfloat16 cost quality? The demo, trained in both precisions from several seeds.

    python benchmarks/quality.py                 # three seeds of two trainings each
    python benchmarks/quality.py --seeds 1 --precisions fp32 bf16+compile

Every run trains pix2pix on the demo's pairs for the same number of images, with the options of
scripts/demo.sh, and is tested in float32 (scripts/held_out_l1.py) on pairs it has never seen.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "scripts" / "demo.sh"


def main() -> None:
    """Train, test, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    args = parser.parse_args()
    found: dict[str, list[float]] = {precision: [] for precision in args.precisions}
    print("| precision | seed | training | L1 on held-out pairs |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        run(folder, "scripts/make_demo_dataset.py")
        for seed in range(args.seeds):
            for precision in args.precisions:
                start = time.monotonic()
                run(folder, "train.py", *training(), *flags(precision), "--seed", str(seed))
                took = time.monotonic() - start
                l1 = held_out_l1(folder)
                found[precision].append(l1)
                print(f"| {precision} | {seed} | {took:.0f} s | {l1:.4f} |", flush=True)
    first = statistics.mean(found[args.precisions[0]])
    for precision, values in found.items():
        mean = statistics.mean(values)
        print(f"| {precision} | mean | | {mean:.4f}, {mean / first - 1:+.1%} |")


def training() -> list[str]:
    """The options with which scripts/demo.sh trains, without the name and place of the data."""
    command = re.search(r"python train\.py (.*?[^\\])\n", DEMO.read_text(), re.DOTALL)[1]
    return [*command.replace("\\\n", " ").split(), "--no_html"]


def flags(precision: str) -> list[str]:
    """The options for "bf16" or "bf16+compile"."""
    name, *more = precision.split("+")
    return ["--precision", name, *(f"--{word}" for word in more)]


def held_out_l1(folder: str) -> float:
    """What the script prints for the model in `folder`."""
    argv = ["--dataroot", "./datasets/demo", "--name", "demo", "--model", "pix2pix"]
    return float(re.search(r"model ([0-9.]+)", run(folder, "scripts/held_out_l1.py", *argv))[1])


def run(folder: str, program: str, *argv: str) -> str:
    """Run a program of the repository in `folder`; what it prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / program), *argv],
        cwd=folder, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{program} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
