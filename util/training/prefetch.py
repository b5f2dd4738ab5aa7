"""Batches that are on the GPU before the step that needs them."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def on_device(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """The same batches; on CUDA their tensors, in pinned memory, are copied during a step.

    A step only queues its work, so the copy of the next batch starts while it is computed.
    """
    copying = torch.cuda.Stream(device) if device.type == "cuda" else None
    for batch in batches:
        if copying:
            steps = torch.cuda.current_stream(device)
            with torch.cuda.stream(copying):
                batch = _moved(batch, device, steps)
            steps.wait_stream(copying)
        yield batch


def _moved(value: Any, device: torch.device, reader: "torch.cuda.Stream") -> Any:
    if isinstance(value, dict):
        return {key: _moved(part, device, reader) for key, part in value.items()}
    if isinstance(value, list):
        return [_moved(part, device, reader) for part in value]
    if isinstance(value, Tensor):
        value = value.to(device, non_blocking=True)
        value.record_stream(reader)  # its memory must not be reused before `reader` has read it
    return value
