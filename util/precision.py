"""How networks run: precision, compilation, and the CPU's memory allocator."""

import ctypes
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Precision(NamedTuple):
    """A row of `PRECISIONS`."""

    dtype: torch.dtype | None  # of autocast; None: no autocast
    tf32: bool  # CUDA may round the factors of float32 products to 10 bits
    scaled: bool  # small gradients would be 0 without a scaled loss


PRECISIONS = {
    "fp32": Precision(None, tf32=False, scaled=False),
    "tf32": Precision(None, tf32=True, scaled=False),
    "bf16": Precision(torch.bfloat16, tf32=True, scaled=False),
    "fp16": Precision(torch.float16, tf32=True, scaled=True),
}


def default(device: torch.device) -> str:
    """What a device computes in where --precision is not given: on CUDA, as torch does, in TF32."""
    return "tf32" if device.type == "cuda" and is_ampere(device) else "fp32"


def is_ampere(device: torch.device) -> bool:
    """Whether a CUDA device is from 2020 or later, so that it has TF32 and bfloat16."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def problem(device: torch.device, precision: str) -> str | None:
    """Why a device cannot compute in this precision, and what to use; None if it can."""
    if precision == "bf16" and device.type == "cuda" and not is_ampere(device):
        return f"--precision bf16: {torch.cuda.get_device_name(device)} has no bfloat16; use fp16"
    if precision == "fp16" and device.type == "mps":
        return "--precision fp16: torch scales no losses on MPS; use bf16 or fp32"
    return None


def configure(device: torch.device, precision: str, fixed_shapes: bool) -> None:
    """Set up this process for a name in `PRECISIONS` and its device, now torch's current one.

    With `fixed_shapes`, one size of images, cuDNN tries its algorithms and keeps the fastest.
    """
    row = PRECISIONS[precision]
    torch.backends.cuda.matmul.allow_tf32 = row.tf32
    torch.backends.cudnn.allow_tf32 = row.tf32
    torch.backends.cudnn.benchmark = fixed_shapes
    if device.type == "cuda":  # events and pinned memory are the current device's
        torch.cuda.set_device(device)
    if device.type == "cpu":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks: the kernel would clear the pages for each tensor anew."""
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """A block in which convolutions compute in the precision's type; weights stay float32."""
    dtype = PRECISIONS[precision].dtype
    # a cast of weights that is kept would be wrong after the optimizer's step
    return torch.autocast(device.type, dtype, cache_enabled=False) if dtype else nullcontext()


def compile_networks(nets: Iterable[nn.Module], fixed_shapes: bool) -> None:
    """Compile networks in place; type and state-dict keys stay. The first calls take minutes.

    DistributedDataParallel stays around them. `fixed_shapes`: one size of images.
    """
    from torch._dynamo import config  # takes a second, so not at the top

    config.cache_size_limit = 64  # networks of one class share it: 8 would be too few
    config.optimize_ddp = False  # it would cut the networks into pieces, and fails on some
    for net in nets:
        net.compile(dynamic=False if fixed_shapes else None)


def eagerly(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`net(x)` as if it were not compiled: compiled code cannot be differentiated twice."""
    parts = net.modules() if isinstance(net, nn.Module) else ()
    compiled = {part: part._compiled_call_impl for part in parts if part._compiled_call_impl}
    for part in compiled:
        part._compiled_call_impl = None
    try:
        return net(x)
    finally:
        for part, code in compiled.items():
            part._compiled_call_impl = code
