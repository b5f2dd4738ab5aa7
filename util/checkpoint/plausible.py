"""Whether a state from a file is of the kind that an optimizer or a schedule keeps.

Torch checks little of it: what is missing or of another kind would end a training much later, with
a traceback.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

# keep for each parameter numbers and tensors of its shape, the same kinds for all
ELEMENTWISE = (
    torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam,
    torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta,
)  # fmt: skip
NUMBERS = (bool, int, float)
WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Raise ValueError where `saved` is no state of such an optimizer, of these parameters."""
    check_alike(optimizer.state_dict()["param_groups"], saved["param_groups"], "param_groups")
    if type(optimizer) not in ELEMENTWISE:
        return  # what others keep, they alone know
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kinds = {
        frozenset((name, isinstance(value, Tensor)) for name, value in moments.items())
        for moments in saved["state"].values()
    }
    if len(kinds) > 1:
        raise ValueError("some parameters have other moments than others")
    for number, moments in saved["state"].items():
        for name, value in moments.items():
            shapes = ((), parameters[number].shape)
            whole = isinstance(value, Tensor) and value.shape in shapes
            if not (whole and value.is_floating_point() or value is None or _is_number(value)):
                raise ValueError(f"{name} of parameter {number} does not fit it")


def check_schedule(schedule: object, saved: dict[str, Any]) -> None:
    """Raise ValueError where `saved` is no state of such a schedule; it would take anything."""
    for name in saved:
        if not isinstance(name, str) or callable(getattr(type(schedule), name, None)):
            raise ValueError(f"it has a value for {name!r}")
    check_alike(schedule.state_dict(), saved, "schedule")


def check_setting(ours: Any, value: Any, name: str) -> None:
    """Raise ValueError where `value` cannot take the place of the attribute `ours` of a model."""
    if not isinstance(ours, (*NUMBERS, np.generic, Tensor, type(None))):
        raise ValueError(f"{name} is no number of the model")
    weights = isinstance(value, Tensor) and value.is_floating_point()
    if not (_is_number(value) or weights and (ours is None or np.shape(ours) == value.shape)):
        raise ValueError(f"{name} is no number, or has another shape")


def check_number(value: Any, name: str) -> None:
    """Raise ValueError where `value` is no number, nor a tensor with one."""
    if not _is_number(value):
        raise ValueError(f"{name} is no number")


def _is_number(value: Any) -> bool:
    """Whether it is one that arithmetic with floats can take."""
    if isinstance(value, Tensor):
        return value.dim() == 0 and (value.is_floating_point() or value.dtype in WHOLE)
    return isinstance(value, NUMBERS) and not (isinstance(value, int) and abs(value) >= 2**63)


def check_alike(ours: Any, saved: Any, name: str) -> None:
    """Raise ValueError where `saved` has not the structure of `ours`; it may have more names."""
    if isinstance(ours, dict):
        if not isinstance(saved, dict) or ours.keys() - saved.keys():
            raise ValueError(f"{name} is incomplete")
        for key, value in ours.items():
            check_alike(value, saved[key], f"{name}.{key}")
    elif isinstance(ours, (list, tuple)):
        if not isinstance(saved, (list, tuple)) or len(saved) != len(ours):
            raise ValueError(f"{name} has another length")
        for place, value in enumerate(ours):
            check_alike(value, saved[place], f"{name}.{place}")
    elif isinstance(ours, (*NUMBERS, Tensor)):
        check_number(saved, name)
    elif ours is not None and type(saved) is not type(ours):
        raise ValueError(f"{name} is a {type(saved).__name__}")
