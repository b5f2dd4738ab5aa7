"""How a step of training goes: precision, a scaled loss, a batch in parts.

A model writes `loss.backward()` and `optimizer.step()` as always; within `scaled_backward` and
`stepping_through` these two do what the options ask for.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from util import distributed


class GradientScaler(torch.amp.GradScaler):
    """torch's scaler, whose state may come from a run that needed none, or go to one."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a scale, if there is one."""
        if state_dict:
            super().load_state_dict(state_dict)


@contextmanager
def scaled_backward(scale: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within this block `loss.backward()` differentiates `scale(loss)`.

    Every way to call it leads through torch.autograd.backward, which is replaced for that time.
    Calls with gradients of their own, such as those of torch.utils.checkpoint, are within a
    backward pass that was scaled already.
    """
    backward = torch.autograd.backward

    def scaled(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> None:
        if grad_tensors is None:
            several = isinstance(tensors, list | tuple)
            tensors = [scale(t) for t in tensors] if several else scale(tensors)
        backward(tensors, grad_tensors, *args, **kwargs)

    torch.autograd.backward = scaled
    try:
        yield
    finally:
        torch.autograd.backward = backward


@contextmanager
def stepping_through(
    scaler: torch.amp.GradScaler, optimizers: Iterable[torch.optim.Optimizer]
) -> Iterator[None]:
    """Within this block `optimizer.step()` divides by the scale, and skips infinite gradients."""
    if not scaler.is_enabled():
        yield
        return
    with _methods_replaced(optimizers, "step", lambda o, step: _Scaled(o, step, scaler)):
        yield
    scaler.update()


class _Scaled:
    """The `step` of an optimizer, by way of a scaler, which calls the method of that name."""

    def __init__(self, optimizer: torch.optim.Optimizer, step: Callable, scaler: Any):
        self.optimizer, self.original, self.scaler, self.within = optimizer, step, scaler, False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.within:
            return self.original(*args, **kwargs)
        self.within = True
        try:
            return self.scaler.step(self.optimizer, *args, **kwargs)
        finally:
            self.within = False


@contextmanager
def held(optimizers: Iterable[torch.optim.Optimizer], *methods: str) -> Iterator[None]:
    """Within this block these methods of the optimizers ("step", "zero_grad") do nothing."""
    if not methods:
        yield
        return
    name, *others = methods
    with _methods_replaced(optimizers, name, lambda o, method: lambda *args, **kwargs: None):
        with held(optimizers, *others):
            yield


@contextmanager
def _methods_replaced(
    things: Iterable[object], name: str, make: Callable[[Any, Callable], Callable]
) -> Iterator[None]:
    """Within this block `thing.name` is `make(thing, thing.name)`."""
    things = list(things)
    before = [vars(thing).get(name) for thing in things]  # a schedule puts its own step there
    for thing in things:
        setattr(thing, name, make(thing, getattr(thing, name)))
    try:
        yield
    finally:
        for thing, method in zip(things, before, strict=True):
            if method is None:
                delattr(thing, name)
            else:
                setattr(thing, name, method)


def in_parts(optimize_parameters: Callable) -> Callable:
    """Decorates an `optimize_parameters` that goes through `self.parts()` by itself.

    One that overrides it is not decorated, so it is known what it cannot do.
    """
    optimize_parameters.in_parts = True
    return optimize_parameters


class Parts:
    """A batch in parts that are computed one after the other, to need the memory of one.

    A model may go through them more than once. What it has made of a part, images and losses, is
    there again when it comes back to that part, without its graph.
    """

    def __init__(self, model: Any, batch: Mapping[str, Any], size: int):
        """Cut a batch.

        Args:
            model: a BaseModel.
            batch: tensors (N, …) and lists of N by name.
            size: images in a part; the last may have less.
        """
        self.model = model
        self.batches = cut(batch, size)
        self.kept: list[dict[str, Any]] = [{} for _ in self.batches]
        self.counts = [_length(part) for part in self.batches]
        self.weight = 1.0  # of the present part: its share of the images

    def visit(self) -> Iterator[int]:
        """Put each part in turn into the model; its number. Ranks average at the last one."""
        last = len(self.batches) - 1
        for place in range(len(self.batches)):
            self.weight = self.counts[place] / sum(self.counts)
            self._enter(place)
            with distributed.unsynchronised(self._networks() if place < last else ()):
                yield place
            self.kept[place] = _results(self.model)

    def join(self) -> None:
        """Leave the whole batch in the model: all images, and the means of the losses."""
        weights = [count / sum(self.counts) for count in self.counts]
        for name, first in self.kept[0].items():
            values = [kept[name] for kept in self.kept]
            if name == "image_paths":
                joined = [path for paths in values for path in paths]
            elif isinstance(first, Tensor) and first.dim():
                joined = torch.cat(values)
            else:
                joined = sum(w * value for w, value in zip(weights, values, strict=True))
            setattr(self.model, name, joined)

    def _enter(self, place: int) -> None:
        if not self.kept[place]:
            self.model.set_input(self.batches[place])
        for name, value in self.kept[place].items():
            setattr(self.model, name, value)

    def _networks(self) -> Iterable[nn.Module]:
        return [value for value in vars(self.model).values() if isinstance(value, nn.Module)]


def cut(batch: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    """A batch in parts of `size` images; what is neither tensor nor list goes to each of them."""
    count = _length(batch)

    def part(value: Any, start: int) -> Any:
        cuttable = isinstance(value, Tensor | list | tuple) and len(value) == count
        return value[start : start + size] if cuttable else value

    return [{k: part(v, start) for k, v in batch.items()} for start in range(0, count, size)]


def _length(batch: Mapping[str, Any]) -> int:
    return next(len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim())


def _results(model: Any) -> dict[str, Any]:
    """Images, losses and paths among the attributes of a model, without graphs."""
    found: dict[str, Any] = {"image_paths": list(model.get_image_paths())}
    for name, value in vars(model).items():
        image = isinstance(value, Tensor) and value.dim() == 4
        loss = name.startswith("loss_") and isinstance(value, Tensor | float | int)
        if image or loss:
            found[name] = value.detach() if isinstance(value, Tensor) else value
    return found
