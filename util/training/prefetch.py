"""Batches that are on the GPU before the step that needs them."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def on_device(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """The same batches; on CUDA their tensors are copied beside the step that still runs.

    A step only queues its work, so the copy of the next batch starts while it is computed; the
    stream of the steps waits for it. The loader's memory should be pinned.

    Args:
        batches: tensors, or dicts and lists of them and of other things.
        device: of this rank; anything but CUDA leaves the batches alone.
    """
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copying):
            batch = _moved(batch, device)
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(copying)
        _keep_for(batch, steps)
        yield batch


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    return [_moved(part, device) for part in value] if isinstance(value, list) else value


def _keep_for(value: Any, stream: "torch.cuda.Stream") -> None:
    """Memory of the copying stream must not be reused before the steps have read it."""
    if isinstance(value, Tensor):
        value.record_stream(stream)
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _keep_for(part, stream)
