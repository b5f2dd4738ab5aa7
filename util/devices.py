"""Devices: which one to use, copies that it makes while it computes, and the memory it took."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from util.distributed import local_rank, local_world_size, print0, world_size
from util.errors import UserError


def choose_device(gpu_ids: str | None) -> torch.device:
    """The device of this rank; UserError with a list of the GPUs if there is no such one.

    Args:
        gpu_ids: what is given after --gpu_ids ("0", "0,1", "-1" for the CPU), or None for
            the best at hand: CUDA, a GPU for each rank; then Apple's MPS; then the CPU.
    """
    no_cuda = gpu_ids == "0" and not torch.cuda.is_available()  # 0 is in everybody's scripts
    gpus = [] if no_cuda else gpus_to_use(gpu_ids)
    if not gpus:
        best = gpu_ids in (None, "0") and world_size() == 1  # MPS has no collectives
        device = torch.device("mps" if best and torch.backends.mps.is_available() else "cpu")
        if no_cuda:
            print0(f"--gpu_ids 0: there is no CUDA GPU here, so this runs on {device}")
        return device
    ranks, ids = local_world_size(), ",".join(map(str, gpus))
    if len(gpus) < min(ranks, torch.cuda.device_count()):
        raise UserError(f"--gpu_ids {gpu_ids} names too few GPUs for {ranks} ranks; leave it out")
    if world_size() == 1 and len(gpus) > 1:
        print0(
            f"{len(gpus)} GPUs are here and one process trains on one, GPU {gpus[0]}; for all of "
            f"them: CUDA_VISIBLE_DEVICES={ids} torchrun --nproc_per_node={len(gpus)} train.py …"
        )
    return torch.device("cuda", gpus[local_rank() % len(gpus)])


def gpus_to_use(gpu_ids: str | None) -> list[int]:
    """The CUDA GPUs that --gpu_ids allows, each once; see choose_device."""
    count = torch.cuda.device_count()
    if gpu_ids is None:
        return list(range(count))
    try:
        ids = [i for i in dict.fromkeys(map(int, gpu_ids.split(","))) if i >= 0]
    except ValueError:
        raise UserError(f"--gpu_ids {gpu_ids} is not a list of numbers, such as 0,1") from None
    missing = [i for i in ids if i >= count]
    if missing:
        here = ", ".join(f"{i} ({torch.cuda.get_device_name(i)})" for i in range(count))
        raise UserError(
            f"--gpu_ids {gpu_ids}: there is no GPU {missing[0]} here, only {here or 'the CPU'}; "
            "leave the flag out for the best device, or use --gpu_ids -1 for the CPU"
        )
    return ids


def on_device(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """The same batches; on CUDA their tensors, in pinned memory, are copied during a step.

    A step only queues its work, so the copy of the next batch starts while it is computed.
    """
    copying = torch.cuda.Stream(device) if device.type == "cuda" else None
    for batch in batches:
        if copying and isinstance(batch, dict):  # the model copies what is not copied here
            steps = torch.cuda.current_stream(device)
            with torch.cuda.stream(copying):
                batch = {name: _copied(value, device, steps) for name, value in batch.items()}
            steps.wait_stream(copying)
        yield batch


def _copied(value: Any, device: torch.device, reader: torch.cuda.Stream) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.to(device, non_blocking=True)
        value.record_stream(reader)  # its memory must not be reused before `reader` has read it
    return value


class HostCopy:
    """A tensor on its way to main memory; a GPU copies while Python continues."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._arrived = torch.cuda.Event() if tensor.is_cuda else None
        self._host = tensor.to("cpu", non_blocking=tensor.is_cuda)  # into pinned memory
        if self._arrived:
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    def numpy(self) -> np.ndarray:
        """The values; waits for them, and may be called from any thread."""
        if self._arrived:
            self._arrived.synchronize()
        return self._host.numpy()


def peak_memory(device: torch.device) -> str:
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
