"""What do ranks cost? Images/s of 1, 2 and 4 ranks, and the share of it spent on communication.

    python benchmarks/ddp.py                                     # this CPU, one thread per rank
    python benchmarks/ddp.py --model cycle_gan --norm instance --crop_size 128
    python benchmarks/ddp.py --device cuda

Further options are those of train.py. Every rank has the same batch whatever their number.

Communication is what a step costs beyond the same step on the same ranks without a message: under
DDP's `no_sync`, with SyncBatchNorm computing but not exchanging its sums. Waiting for a slower rank
is in it. --device cuda compares plain python, torchrun with one rank, and two ranks on one GPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from unittest import mock

import harness
import torch.distributed as dist
from runs import TrainingStep
from torch.nn.parallel import DistributedDataParallel

from util import distributed

OPTIONS = ["--dataroot", "none", "--name", "benchmark", "--model", "pix2pix"]
ON_CPU = ["--gpu_ids", "-1", "--ngf", "16", "--ndf", "16"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


class RankStep(TrainingStep):
    """A step of this rank."""

    def configure(self, opt: argparse.Namespace) -> None:
        """Join the job, too."""
        super().configure(opt)
        self.job = distributed.job(opt.device, opt.dist_timeout)
        self.job.__enter__()

    def seconds(self, silent: bool) -> float:
        """Of a round that all ranks begin together, the mean over ranks."""
        if dist.is_initialized():
            dist.barrier()
        with self.no_messages() if silent else nullcontext():
            seconds = self()
        return distributed.mean({"seconds": seconds})["seconds"]

    @contextmanager
    def no_messages(self) -> Iterator[None]:
        """Within this block a step computes what it always does, and tells no other rank."""
        with ExitStack() as stack:
            for net in self.model.named_networks().values():
                if isinstance(net, DistributedDataParallel):
                    stack.enter_context(net.no_sync())
            stack.enter_context(mock.patch.object(dist, "all_reduce", lambda *a, **k: None))
            yield


def measure(args: argparse.Namespace, argv: list[str]) -> None:
    """Be a rank; rank 0 writes the medians of four rounds."""
    step = RankStep(harness.ROOT, argv, args.steps)
    rounds = {"full": partial(step.seconds, False), "silent": partial(step.seconds, True)}
    table = harness.compare(rounds, 4)
    if distributed.is_main():
        medians = [statistics.median(seconds) for seconds in table.values()]
        args.result.write_text(json.dumps([*medians, step.model.opt.global_batch_size]))


def run(launcher: list[str], shares: list[float]) -> float:
    """Start a job; returns its seconds per image and adds the share of communication."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [*launcher, __file__, *sys.argv[1:], "--result", str(result)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        full, silent, images = json.loads(result.read_text())
    shares.append(1 - silent / full)
    return full / images


def main() -> None:
    """Run the jobs in turn and print the table."""
    parser = harness.parser(__doc__, 3, ())
    add = parser.add_argument
    add("--ranks", type=int, nargs="+", default=[1, 2, 4], help="CPU: numbers of ranks to compare")
    add("--steps", type=int, default=4, help="of a round in a job")
    add("--result", type=Path, help=argparse.SUPPRESS)  # be a rank; where to write the times
    args, train_options = parser.parse_known_args()
    argv = [*OPTIONS, *(ON_CPU if args.device == "cpu" else []), *train_options]
    if args.result:
        return measure(args, argv)
    harness.start(parser, args)
    plain = [sys.executable]
    jobs = {str(n): plain if n == 1 else [*TORCHRUN, str(n)] for n in args.ranks}
    if args.device == "cuda":
        jobs = {"python": plain, "torchrun, 1": [*TORCHRUN, "1"], "torchrun, 2": [*TORCHRUN, "2"]}
    shares: dict[str, list[float]] = {name: [] for name in jobs}
    variants = {name: partial(run, job, shares[name]) for name, job in jobs.items()}
    table = harness.compare(variants, args.rounds, args.limit, warm_ups=0)
    communication = {name: f"{statistics.median(s):.0%}" for name, s in shares.items()}
    print(table.markdown("ranks", images=1, communication=communication))


if __name__ == "__main__":
    distributed.run(main)
