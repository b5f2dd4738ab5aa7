"""Mistakes explained: images of a size that a network cannot take, and too little memory."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from models.networks import DISCRIMINATORS
from util.errors import ImageSizeError, UserError


def check_discriminator(opt: Namespace) -> Iterator[str]:
    """For `check_options` of a model with a discriminator: the crop must be large enough for it."""
    if not opt.isTrain or opt.netD not in DISCRIMINATORS:
        return
    least = DISCRIMINATORS[opt.netD].minimum(opt.n_layers_D)
    if "crop" in opt.preprocess and 0 < opt.crop_size < least:
        yield f"--crop_size {opt.crop_size} is too small for --netD {opt.netD}; use {least} or more"


TEXTS = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA, MPS; the CPU's


@contextmanager
def images_named(paths: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Within this block an image that a network cannot take is named in the error."""
    try:
        yield
    except ImageSizeError as error:
        names = ", ".join(str(path) for path in paths()[:4])
        raise UserError(f"in the batch of {names}: {error}") from None


@contextmanager
def shortage_explained(opt: Namespace, batch: Mapping[str, Any]) -> Iterator[None]:
    """Within this block running out of memory is a UserError that says what helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not any(t in str(error) for t in TEXTS):
            raise
        images = [v for v in batch.values() if isinstance(v, Tensor) and v.dim() == 4]
        height, width = images[0].shape[-2:] if images else (opt.crop_size, opt.crop_size)
        parts = f" in {opt.accumulate} micro-batches" if opt.accumulate > 1 else ""
        raise UserError(
            f"out of memory on {opt.device}, with images of {height}x{width} (height x width) "
            f"pixels and a batch of {opt.batch_size}{parts}. Try, in this order: "
            f"{'; '.join(_remedies(opt))}"
        ) from None


def _remedies(opt: Namespace) -> Iterator[str]:
    """What is left to try, the one that costs least first."""
    size = opt.batch_size // opt.accumulate
    if size > 1:
        least = next(n for n in range(2, size + 1) if size % n == 0)
        yield f"--accumulate {opt.accumulate * least} (the same training, fewer images at a time)"
    if not opt.checkpoint_activations and not opt.compile:
        yield "--checkpoint_activations (the same training, slower)"
    if opt.precision in ("fp32", "tf32"):
        yield "--precision bf16"
    if opt.batch_size > 1:
        yield "a smaller --batch_size"
    yield "a smaller --crop_size, with --preprocess resize_and_crop or crop"
