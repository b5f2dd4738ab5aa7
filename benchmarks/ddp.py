"""What do ranks cost? Images/s of 1, 2 and 4 ranks, and the share of it spent on communication.

    python benchmarks/ddp.py                                     # this CPU, one thread per rank
    python benchmarks/ddp.py --model cycle_gan --norm instance --crop_size 128
    python benchmarks/ddp.py --device cuda                       # one GPU, see below

Further options are those of train.py. A step is `optimize_parameters` on random images that are in
memory already: loading, logging and saving are left out. Every rank has the same batch whatever
their number, so without any cost n ranks would make n times the images/s of one.

Communication is what a step costs beyond the same step on the same ranks without a message: under
DDP's `no_sync`, with SyncBatchNorm computing but not exchanging its sums. Rounds of the two
alternate. Waiting for a slower rank is in it. The jobs run in turn, several times, so that what
else the machine does meets them all; compare ratios, not runs.

With --device cuda: plain python against torchrun --nproc_per_node=1, and two ranks that share the
GPU over gloo.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import create_model  # noqa: E402
from models.base_model import BaseModel  # noqa: E402
from options.train_options import TrainOptions  # noqa: E402
from util import distributed, rng  # noqa: E402
from util.devices import existing_gpus  # noqa: E402
from util.errors import UserError  # noqa: E402

OPTIONS = ["--dataroot", "none", "--name", "benchmark", "--model", "pix2pix"]
ON_CPU = ["--gpu_ids", "-1", "--ngf", "16", "--ndf", "16"]
JOB_LIMIT = 300  # seconds for one that hangs
# what SyncBatchNorm calls: ours, and torch's own in its versions
EXCHANGES = ("all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_single")


@dataclass
class Job:
    """A way to start the step: how many ranks, and the rates of its rounds so far (images/s)."""

    name: str
    ranks: int
    launcher: list[str]
    rates: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)


# ---- the measuring process: one rank ---------------------------------------------------------


def measure(result: Path, rounds: int, steps: int, argv: Sequence[str]) -> None:
    """Time rounds of steps on this rank; rank 0 writes {"full": seconds, "silent": seconds}."""
    torch.set_num_threads(1)
    opt = TrainOptions().parse(argv)
    with distributed.job(opt.device, opt.dist_timeout):
        rng.seed_everything(opt.seed)
        model = create_model(opt)
        model.setup(opt)
        model.set_input(random_batch(opt))
        kinds: dict[str, Callable[[], AbstractContextManager]] = {"full": nullcontext}
        if distributed.world_size() > 1:
            kinds["silent"] = lambda: silent(model)
        times = time_rounds(model, kinds, rounds, steps)
        if distributed.is_main():
            result.write_text(json.dumps({**times, "images": opt.global_batch_size * steps}))


def random_batch(opt: argparse.Namespace) -> dict[str, object]:
    """What a loader would give this rank: uniform noise in [-1, 1]."""
    sides = {"A": opt.input_nc, "B": opt.output_nc}
    if opt.direction == "BtoA":
        sides = {"A": opt.output_nc, "B": opt.input_nc}
    size = (opt.crop_size, opt.crop_size)
    images = {side: torch.rand(opt.batch_size, nc, *size) * 2 - 1 for side, nc in sides.items()}
    return {**images, "A_paths": [""] * opt.batch_size, "B_paths": [""] * opt.batch_size}


def time_rounds(
    model: BaseModel,
    kinds: dict[str, Callable[[], AbstractContextManager]],
    rounds: int,
    steps: int,
) -> dict[str, list[float]]:
    """Seconds of each round of each kind, the mean over ranks; a first round is thrown away."""
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds + 1):
        for kind, context in kinds.items():
            with context():
                seconds = time_steps(model, steps)
            times[kind].append(distributed.mean({"t": torch.tensor(seconds)})["t"])
    return {kind: values[1:] for kind, values in times.items()}


def time_steps(model: BaseModel, steps: int) -> float:
    """Seconds that this rank takes for some steps, all ranks starting together."""
    if dist.is_initialized():
        dist.barrier()
    wait_for_device(model)
    start = time.perf_counter()
    for _ in range(steps):
        model.optimize_parameters()
    wait_for_device(model)
    return time.perf_counter() - start


def wait_for_device(model: BaseModel) -> None:
    """Wait until a GPU has done what was asked of it."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


@contextmanager
def silent(model: BaseModel) -> Iterator[None]:
    """Within this block a step computes what it always does, and tells nobody."""
    with ExitStack() as stack:
        for net in model.named_networks().values():
            if isinstance(net, DistributedDataParallel):
                stack.enter_context(net.no_sync())
        for name in filter(partial(hasattr, dist), EXCHANGES):
            stack.enter_context(mock.patch.object(dist, name, lambda *a, **k: None))
        yield


# ---- the process that starts them and shows the table ----------------------------------------


def main() -> None:
    """Run the jobs in turn and print the table."""
    args, train_options = parse()
    argv = [*OPTIONS, *(ON_CPU if args.device == "cpu" else []), *train_options]
    if args.measure:
        return measure(args.measure, args.rounds, args.steps, argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device cuda: {existing_gpus()}; leave it out to measure the CPU")
    jobs = cuda_jobs() if args.device == "cuda" else cpu_jobs(args.ranks)
    print(f"{where(args.device)}\ntrain.py {' '.join(argv)}")
    with tempfile.TemporaryDirectory() as folder:
        for _ in passes(args.passes, args.limit):
            for job in jobs:
                run(job, Path(folder) / "result.json", sys.argv[1:])
    print("\n".join(table(jobs)), f"\nload {os.getloadavg()[0]:.1f} at the end")


def passes(most: int, limit: float) -> Iterator[int]:
    """Count passes, at least one, while the next can be expected to end within `limit` seconds."""
    start = time.monotonic()
    for done in range(most):
        taken = time.monotonic() - start
        if done and taken * (done + 1) / done > limit:
            return
        yield done


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and those left over for train.py."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--ranks", type=int, nargs="+", default=[1, 2, 4], help="CPU: numbers of ranks to compare")
    add("--passes", type=int, default=3, help="how often every job is started, at most")
    add("--limit", type=float, default=120, help="seconds; fewer passes if they take longer")
    add("--rounds", type=int, default=4, help="rounds of a job")
    add("--steps", type=int, default=4, help="steps of a round")
    add("--measure", type=Path, help=argparse.SUPPRESS)  # be a rank; where to write the times
    return parser.parse_known_args()


def cpu_jobs(ranks: Sequence[int]) -> list[Job]:
    """Plain python for one rank, torchrun for more."""
    return [Job(f"{n}", n, [sys.executable] if n == 1 else torchrun(n)) for n in ranks]


def cuda_jobs() -> list[Job]:
    """The two questions that one GPU can answer."""
    return [
        Job("plain python", 1, [sys.executable]),
        Job("torchrun, 1 rank", 1, torchrun(1)),
        Job("2 ranks on one GPU", 2, torchrun(2)),
    ]


def torchrun(ranks: int) -> list[str]:
    """The beginning of a command line."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={ranks}",
    ]


def run(job: Job, result: Path, argv: Sequence[str]) -> None:
    """Start a job and add its rounds to it; UserError with what it printed if it fails."""
    command = [*job.launcher, __file__, *argv, "--measure", str(result)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=JOB_LIMIT
    )
    if done.returncode:
        raise UserError(f"the job {job.name} failed:\n{done.stdout}{done.stderr}")
    times = json.loads(result.read_text())
    job.rates += [times["images"] / seconds for seconds in times["full"]]
    pairs = zip(times["full"], times.get("silent", ()), strict=False)
    job.shares += [1 - silent / full for full, silent in pairs]


def where(device: str) -> str:
    """The machine, in one line."""
    name = existing_gpus() if device == "cuda" else f"{os.cpu_count()} cores, 1 thread per rank"
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    return f"{name}, torch {torch.__version__}, {load}, {time.strftime('%Y-%m-%d')}"


def table(jobs: Sequence[Job]) -> Iterator[str]:
    """The lines of a Markdown table; the first job is the one the others are compared with."""
    yield "| ranks | images/s: median (min to max) | to the first | communication |"
    yield "|---|---|---|---|"
    first = statistics.median(jobs[0].rates)
    for job in jobs:
        shares = spread(job.shares, "{:.0%}") if job.shares else "none"
        ratio = statistics.median(job.rates) / first
        yield f"| {job.name} | {spread(job.rates, '{:.2f}')} | {ratio:.2f} | {shares} |"


def spread(values: Sequence[float], form: str) -> str:
    """Median, minimum and maximum."""
    middle, low, high = (form.format(f(values)) for f in (statistics.median, min, max))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    distributed.run(main)
