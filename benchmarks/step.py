"""How fast is a step of training? Seconds per step, and the ratio to a plain step.

    python benchmarks/step.py
    python benchmarks/step.py --only "cycle_gan 1" --ways default bf16 --rounds 9
    python benchmarks/step.py --device cuda

The plain step is the textbook's (benchmarks/plain_step.py) in float32. On CUDA it runs with torch's
defaults (TF32 in convolutions) and with cudnn.benchmark, as the original does. Images are random
and on the device already. The floor is the time that the multiplications of the plain step would
take at the speed that this device reaches in matrix products of that precision.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import harness
import torch
from runs import TrainingStep

CASES = [f"{model} {batch}" for model in ("cycle_gan", "pix2pix") for batch in (1, 4, 16)]
WAYS = {
    "default": [],
    **{name: ["--precision", name] for name in ("fp32", "tf32", "bf16", "fp16")},
    "default compile": ["--compile"],
    "bf16 compile": ["--precision", "bf16", "--compile"],
    "bf16 checkpoint": ["--precision", "bf16", "--checkpoint_activations"],
}
ON_CPU = ["cycle_gan 1", "pix2pix 1", "pix2pix 4"], ["default", "bf16", "bf16 compile"]
DEFAULTS = {"cpu": ON_CPU, "cuda": (CASES, list(WAYS)[:-1])}  # of --only and --ways


class PlainTrainingStep(TrainingStep):
    """The same networks, of torch's own layers, in the textbook's step."""

    def __init__(self, checkout: Path, argv: list[str], count: int) -> None:
        """Build the model and take its networks."""
        from benchmarks.plain_step import PLAIN, plain_networks

        super().__init__(checkout, argv, count)
        opt = self.model.opt
        self.plain = PLAIN[opt.model](plain_networks(self.model), opt.gan_mode)

    def configure(self, opt: argparse.Namespace) -> None:
        """As the original does."""
        torch.backends.cudnn.benchmark = True

    def step(self) -> None:
        """One step."""
        batch = next(self.batches)
        self.plain.step(batch["A"], batch["B"])


def main() -> None:
    """Measure every case and print its table."""
    parser = harness.parser(__doc__, 5, CASES)
    add = parser.add_argument
    add("--ways", nargs="+", choices=WAYS, metavar="WAY", help=f"beside plain, of {list(WAYS)}")
    add("--size", type=int, default=256, help="height and width of the images")
    add("--steps", type=int, help="of a round, back to back: 20 on CUDA, 1 on a CPU")
    parser.set_defaults(only=None)
    args = parser.parse_args()
    harness.start(parser, args)
    only, ways = DEFAULTS[args.device]
    args.ways, args.steps = args.ways or ways, args.steps or (20 if args.device == "cuda" else 1)
    best = peaks(args.device)
    print("peaks: " + ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in best.items()) + "\n")
    for case in args.only or only:
        print(measure(case, args, best), flush=True)


def measure(case: str, args: argparse.Namespace, best: dict[str, float]) -> str:
    """The table of a case."""
    model, batch_size = case.split()
    argv = ["--dataroot", "none", "--model", model, "--batch_size", batch_size, "--pool_size", "0"]
    argv += ["--crop_size", str(args.size), "--load_size", str(args.size)]
    argv += ["--gpu_ids", "0" if args.device == "cuda" else "-1"]
    builds = {"plain": partial(PlainTrainingStep, harness.ROOT, argv, args.steps)}
    for way in args.ways:
        builds[way] = partial(TrainingStep, harness.ROOT, argv + WAYS[way], args.steps)
    with harness.workers(builds, args.threads) as workers:
        table = harness.compare(workers, args.rounds, args.limit, warm_ups=2)
        flops = workers["plain"].ask("flops")
        memory = {way: worker.ask("memory") for way, worker in workers.items()}
    medians = {way: statistics.median(seconds) for way, seconds in table.items()}
    floor = {way: f"{flops / best[way.split()[0]] / s:.0%}" for way, s in medians.items()}
    rate = {way: f"{int(batch_size) / s:.2f}" for way, s in medians.items()}
    columns = {"images/s": rate, "of the floor": floor, "peak memory": memory}
    return table.markdown(f"{case}, {flops / 1e9:.0f} GFLOP", **columns)


def peaks(device: str) -> dict[str, float]:
    """The best FLOP/s in products of square matrices, by the first word of a way."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device == "cuda":
        dtypes |= {"tf32": torch.float32, "fp16": torch.float16}
    found = {}
    for name, dtype in dtypes.items():
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        size = 8192 if device == "cuda" else 2048
        a = torch.rand(size, size, device=device).to(dtype)
        found[name] = 2 * size**3 / min(harness.timed(lambda a=a: a @ a, device) for _ in range(5))
    return found | dict.fromkeys(("plain", "default"), found.get("tf32", found["fp32"]))


if __name__ == "__main__":
    main()
