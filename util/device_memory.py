"""Memory while training: how much it took, and what to do where it does not suffice."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from util.errors import UserError

TEXTS = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA, MPS; the CPU's


def peak(device: torch.device) -> str:
    """A phrase: the most memory that this process has taken so far on `device`."""
    if device.type == "cuda":
        return f"peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB on {device}"
    if device.type == "mps":
        return f"memory {torch.mps.driver_allocated_memory() / 2**30:.1f} GiB on {device}"
    try:
        import resource  # not on Windows
    except ImportError:
        return "peak memory unknown"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"peak memory {used / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GiB"


@contextmanager
def shortage_explained(
    opt: argparse.Namespace, size: Callable[[], tuple[int, int] | None]
) -> Iterator[None]:
    """Within this block running out of memory is a UserError that says what helps.

    Args:
        opt: the options of the run.
        size: tells height and width of the pictures, None if they are not known.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not any(t in str(error) for t in TEXTS):
            raise
        raise UserError(explanation(opt, size())) from None


def explanation(opt: argparse.Namespace, size: tuple[int, int] | None) -> str:
    """What ran out, and the remedies that are left, the one that costs least first."""
    height, width = size or (opt.crop_size, opt.crop_size)
    part = opt.batch_size // opt.accumulate
    at_once = f" in {opt.accumulate} parts" if opt.accumulate > 1 else ""
    remedies = "; ".join(_remedies(opt, part))
    return (
        f"out of memory on {opt.device}, with pictures of {height}x{width} (height x width) pixels "
        f"and a batch of {opt.batch_size}{at_once}. Try, in this order: {remedies}"
    )


def _remedies(opt: argparse.Namespace, part: int) -> Iterator[str]:
    if part > 1:
        least = next(n for n in range(2, part + 1) if part % n == 0)
        yield f"--accumulate {opt.accumulate * least} (the same training, fewer pictures at a time)"
    if not opt.checkpoint_activations and not opt.compile:
        yield "--checkpoint_activations (the same training, slower)"
    if opt.precision in ("fp32", "tf32"):
        yield "--precision bf16"
    if opt.batch_size > 1:
        yield "a smaller --batch_size"
    yield "a smaller --crop_size, with --preprocess resize_and_crop or crop"
