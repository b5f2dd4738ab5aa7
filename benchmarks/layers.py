"""The layers that this program has of its own for CPUs, against torch's: time and exactness.

    python benchmarks/layers.py                     # 4 threads
    python benchmarks/layers.py --threads 1 --rounds 21

For each layer, forward and backward together: the median of alternating rounds, and the relative
errors of the output and of the gradients by input and weights, against float64. (Whole generators
have kinks: a rounding that moves an activation across one moves the gradients by far more.)
Between any two measurements other memory is written, so that weights come from memory as they do in
training.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.plain_step import PLAIN_NORMS, with_torch_s_convolutions  # noqa: E402
from models.networks import (  # noqa: E402
    GENERATORS,
    cpu_layers,  # noqa: E402
    define_G,
)
from models.networks.cpu_layers.norms import BatchNorm2d, InstanceNorm2d  # noqa: E402
from models.networks.cpu_layers.small_maps import DoublingConv, HalvingConv  # noqa: E402
from models.networks.cpu_layers.winograd import Conv3x3  # noqa: E402
from util.precision import keep_freed_memory  # noqa: E402

CONTIGUOUS, LAST = torch.contiguous_format, torch.channels_last


class Case(NamedTuple):
    """A layer of ours, torch's for the same, and the input's channels and size."""

    ours: nn.Module
    theirs: nn.Module
    shape: tuple[int, int, int]


def cases() -> dict[str, Case]:
    """By name. Inputs are as in networks for 256x256 pixels with 64 channels in the first layer."""
    halve = partial(nn.Conv2d, kernel_size=4, stride=2, padding=1, bias=False)
    double = partial(nn.ConvTranspose2d, kernel_size=4, stride=2, padding=1, bias=False)
    return {
        "residual block, 256 channels": Case(
            Conv3x3(256, 256, 3), nn.Conv2d(256, 256, 3), (256, 66, 66)
        ),
        **{
            f"U-Net down, 512 channels, to {size}x{size}": Case(
                HalvingConv(512, 512, 4, 2, 1, bias=False),
                halve(512, 512),
                (512, 2 * size, 2 * size),
            )
            for size in (8, 4, 1)
        },
        **{
            f"U-Net up, 1024 channels, from {size}x{size}": Case(
                DoublingConv(1024, 512, 4, 2, 1, bias=False), double(1024, 512), (1024, size, size)
            )
            for size in (2, 8)
        },
        "instance norm, 64 channels": Case(
            InstanceNorm2d(64), nn.GroupNorm(64, 64, affine=False), (64, 256, 256)
        ),
        "batch norm, 64 channels": Case(BatchNorm2d(64), nn.BatchNorm2d(64), (64, 256, 256)),
        "ResNet generator, instance norm": Case(
            *generators("resnet_9blocks", "instance"), (3, 256, 256)
        ),
        "U-Net generator, batch norm": Case(*generators("unet_256", "batch"), (3, 256, 256)),
    }


def generators(netG: str, norm: str) -> tuple[nn.Module, nn.Module]:
    """As they are trained, and of torch's own layers."""
    ours = define_G(3, 3, 64, netG, norm)
    cpu_layers.swap_in(ours, torch.device("cpu"), "fp32")
    theirs = GENERATORS[netG].build(3, 3, ngf=64, norm_layer=PLAIN_NORMS[norm])
    return ours, with_torch_s_convolutions(theirs)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch_size", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    print(
        f"{args.threads} threads, batch {args.batch_size}, torch {torch.__version__}, "
        f"{args.rounds} rounds, load {os.getloadavg()[0]:.1f}"
    )
    for name, case in cases().items():
        case.theirs.load_state_dict(case.ours.state_dict())
        measure(name, case, args)


def measure(name: str, case: Case, args: argparse.Namespace) -> None:
    """The three ways through a layer."""
    x = torch.randn(args.batch_size, *case.shape).relu() + 0.1
    gradient = torch.randn_like(case.theirs(x))
    ways = {
        "torch, contiguous": step(case.theirs, x, gradient, CONTIGUOUS),
        "torch, channels_last": step(case.theirs, x, gradient, LAST),
        "ours": step(case.ours, x, gradient, LAST),
    }
    exact = step(case.theirs.double(), x.double(), gradient.double(), CONTIGUOUS)()
    case.theirs.float()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    other = torch.empty(2**26)
    for _ in range(args.rounds + 1):
        for way, run in ways.items():
            other.zero_()
            start = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - start)
    print(f"\n{name}\n{'':22}    ms  ratio  errors: output, gradients")
    base = statistics.median(seconds["torch, contiguous"][1:])
    for way, run in ways.items():
        median = statistics.median(seconds[way][1:])
        print(
            f"{way:22} {median * 1e3:5.1f}  {base / median:5.2f}  {errors(run(), exact)}",
            flush=True,
        )


def step(
    layer: nn.Module, x: Tensor, gradient: Tensor, layout: torch.memory_format
) -> Callable[[], list[Tensor]]:
    """A function that goes forward and backward, and returns the output and the gradients."""
    x = x.contiguous(memory_format=layout).requires_grad_()
    gradient = gradient.contiguous(memory_format=layout)
    weights = [p for name, p in layer.named_parameters() if name.endswith("weight")]

    def run() -> list[Tensor]:
        y = layer(x)
        return [y.detach(), *torch.autograd.grad(y, (x, *weights), gradient)]

    return run


def errors(found: list[Tensor], exact: list[Tensor]) -> str:
    """Relative, in the Euclidean norm: the output, the gradient by input, those by all weights."""
    parts = [(found[:1], exact[:1]), (found[1:2], exact[1:2]), (found[2:], exact[2:])]
    vectors = [
        tuple(torch.cat([t.double().flatten() for t in side]) for side in p) for p in parts if p[0]
    ]
    return " ".join(f"{float((f - e).norm() / e.norm()):.1e}" for f, e in vectors)


if __name__ == "__main__":
    main()
