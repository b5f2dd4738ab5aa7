"""How fast is a step of training? Seconds per step, and the ratio to a plain step.

    python benchmarks/step.py                                    # this CPU, 4 threads
    python benchmarks/step.py --only "cycle_gan 1" --ways "plain,fp32,bf16" --rounds 9
    python benchmarks/step.py --device cuda

The plain step is the textbook's (benchmarks/plain_step.py), which is the original's in speed and
bits. It and the ways to run train.py each have a process of their own, for allocator settings and
compiled code are those of a process; they take turns, several rounds, so that what else the machine
does meets them all; compare ratios, not runs. Steps before the first round are thrown away: they
compile (one column says how long). Images are random and in memory already.

The floor is the time that the multiplications of the plain step alone would take at the speed that
this device reaches in matrix products of that precision, the best of several sizes; "of floor" is
its share of the measured time. (The batch-norm, padding and losses around them cost nothing there.)
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.plain_step import PLAIN, plain_networks  # noqa: E402
from models import create_model  # noqa: E402
from options.train_options import TrainOptions  # noqa: E402
from util import (  # noqa: E402
    device_memory,
    precision,
    rng,  # noqa: E402
)
from util.devices import existing_gpus  # noqa: E402
from util.errors import UserError, one_message  # noqa: E402

CASES = ("cycle_gan 1", "pix2pix 1", "pix2pix 4")  # model and batch size
WAYS = {
    "plain": None,
    "fp32": [],
    "tf32": ["--precision", "tf32"],
    "bf16": ["--precision", "bf16"],
    "fp16": ["--precision", "fp16"],
    "fp32 compile": ["--compile"],
    "bf16 compile": ["--precision", "bf16", "--compile"],
    "bf16 checkpoint": ["--precision", "bf16", "--checkpoint_activations"],
    "fp32 checkpoint": ["--checkpoint_activations"],
}
DEFAULT_WAYS = {"cpu": "plain,fp32,bf16,bf16 compile", "cuda": "plain,fp32,tf32,bf16,bf16 compile"}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PEAK_SIZES = (1024, 2048)  # of the matrices; on CUDA four times that


@dataclass
class Row:
    """A way to make a step, in a process of its own, and what came out so far."""

    name: str
    pipe: Connection
    process: multiprocessing.Process
    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    memory: str = ""

    def ask(self, question: str) -> object:
        """Send a question to the process and wait for the answer."""
        self.pipe.send(question)
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


# ---- the process of one way ------------------------------------------------------------------


def serve(pipe: Connection, case: str, way: str, args: argparse.Namespace) -> None:
    """Answer "step" with its seconds, "flops" and "memory"; end with the pipe."""
    torch.set_num_threads(args.threads)
    step = None
    while True:
        try:
            question = pipe.recv()
            step = step or build(case, way, args)
            pipe.send(answer(question, step, args))
        except EOFError:
            return
        except Exception as error:
            pipe.send(RuntimeError(f"{case}, {way}: {type(error).__name__}: {error}"))


def answer(question: str, step: Callable[[], None], args: argparse.Namespace) -> object:
    """What `serve` answers."""
    device = torch.device(args.device)
    if question == "step":
        return timed(step, device, CLOCKS[args.clock])
    return flops_of(step) if question == "flops" else device_memory.peak(device)


def build(case: str, way: str, args: argparse.Namespace) -> Callable[[], None]:
    """The step of a case in one of the WAYS."""
    name, batch_size = case.split()
    argv = ["--dataroot", "none", "--model", name, "--batch_size", batch_size, "--pool_size", "0"]
    argv += ["--crop_size", str(args.size), "--load_size", str(args.size)]
    argv += ["--gpu_ids", "0" if args.device == "cuda" else "-1", *(WAYS[way] or [])]
    opt = TrainOptions().parse(argv)
    if way != "plain":
        precision.configure(opt.device, opt.precision)
    elif opt.device.type == "cuda":
        precision.configure(opt.device, "fp32")  # torch's own default rounds to TF32
    rng.seed_everything(0)
    model = create_model(opt)
    model.setup(opt)
    batch = random_batch(opt)
    if way != "plain":
        return lambda: model.train_on(batch)
    plain = PLAIN[name](plain_networks(model), opt.gan_mode)
    a, b = (batch[side].to(opt.device) for side in "AB")
    return lambda: plain.step(a, b)


def random_batch(opt: argparse.Namespace) -> dict[str, object]:
    """What a loader would give: uniform noise in [-1, 1]."""
    shape = (opt.batch_size, 3, opt.crop_size, opt.crop_size)
    images = {side: torch.rand(shape) * 2 - 1 for side in "AB"}
    return {**images, "A_paths": [""] * opt.batch_size, "B_paths": [""] * opt.batch_size}


def timed(
    step: Callable[[], None], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of a step by `clock`; on CUDA between two events around it."""
    if device.type != "cuda":
        start = clock()
        step()
        return clock() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def flops_of(step: Callable[[], None]) -> int:
    """Additions and multiplications in the convolutions of a step, backward pass included."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


# ---- what the device can do ------------------------------------------------------------------


def peak_flops(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float], rounds: int = 3
) -> float:
    """The best FLOP/s in products of square matrices."""
    best = 0.0
    for size in PEAK_SIZES:
        size *= 4 if device.type == "cuda" else 1
        a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
        for _ in range(rounds):
            best = max(best, 2 * size**3 / timed(lambda a=a, b=b: a @ b, device, clock))
    return best


def peaks(device: torch.device, clock: Callable[[], float]) -> dict[str, float]:
    """FLOP/s by the first word of a way."""
    found = {"fp32": peak_flops(device, torch.float32, clock)}
    found["bf16"] = peak_flops(device, torch.bfloat16, clock)
    if device.type == "cuda":
        precision.configure(device, "tf32")
        found["tf32"] = peak_flops(device, torch.float32, clock)
        found["fp16"] = peak_flops(device, torch.float16, clock)
        precision.configure(device, "fp32")
    return found | {"plain": found["fp32"]}


# ---- rounds and table ------------------------------------------------------------------------


def main() -> None:
    """Measure every case and print its table."""
    args = parse()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    print(
        f"{args.device}, {args.threads} threads ({args.clock} time), {args.size}x{args.size}, "
        f"torch {torch.__version__}, {args.rounds} rounds, load {os.getloadavg()[0]:.1f}"
    )
    best = peaks(device, CLOCKS[args.clock])
    print("peaks: " + ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in best.items()))
    for case in args.only:
        measure(case, args, best)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--clock",
        default="wall",
        choices=CLOCKS,
        help="cpu: what this process itself used, for a busy machine and --threads 1",
    )
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--only", type=lambda s: s.split(","), default=CASES, help='"pix2pix 4"')
    parser.add_argument("--ways", help=f"some of: {','.join(WAYS)}")
    args = parser.parse_args()
    args.ways = (args.ways or DEFAULT_WAYS[args.device]).split(",")
    if "plain" not in args.ways:
        args.ways = ["plain", *args.ways]
    unknown = [way for way in args.ways if way not in WAYS]
    if unknown:
        raise UserError(f"--ways {unknown[0]}: there are {', '.join(WAYS)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device cuda: {existing_gpus()}; leave it out to measure the CPU")
    return args


def measure(case: str, args: argparse.Namespace, best: dict[str, float]) -> None:
    """The table of a case."""
    rows = [start(case, way, args) for way in args.ways]
    try:
        for row in rows:
            row.first = row.ask("step")
            row.ask("step")
        for _ in range(args.rounds):
            for row in rows:
                row.seconds.append(row.ask("step"))
        for row in rows:
            row.memory = row.ask("memory")
        show(case, rows, rows[0].ask("flops"), best)
    finally:
        for row in rows:
            row.pipe.close()  # which ends it
            row.process.join(10)
            row.process.terminate()


def start(case: str, way: str, args: argparse.Namespace) -> Row:
    """A process for one way."""
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, case, way, args), daemon=True)
    process.start()
    return Row(way, ours, process)


def show(case: str, rows: list[Row], flops: int, best: dict[str, float]) -> None:
    """Print the rows, the plain one first."""
    plain = statistics.median(rows[0].seconds)
    print(f"\n{case}: {flops / 1e9:.0f} GFLOP, load {os.getloadavg()[0]:.1f}")
    print(f"{'way':16}  median      min      max  ratio (min to max)  of floor  first step  memory")
    for row in rows:
        median = statistics.median(row.seconds)
        pairs = [p / s for p, s in zip(rows[0].seconds, row.seconds, strict=True)]
        floor = flops / best[row.name.split()[0]]
        print(
            f"{row.name:16} {median:6.3f}s  {min(row.seconds):6.3f}s  {max(row.seconds):6.3f}s  "
            f"{plain / median:5.2f} ({min(pairs):.2f} to {max(pairs):.2f})    {floor / median:5.0%}"
            f"     {row.first:6.1f}s  {row.memory}",
            flush=True,
        )


if __name__ == "__main__":
    with one_message():
        main()
