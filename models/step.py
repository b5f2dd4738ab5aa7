"""A step of training: loss scaling, gradient accumulation, batched calls, failures explained.

`BaseModel.train_on` puts these around a model's `optimize_parameters`.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models import networks
from util import distributed
from util.errors import ImageSizeError, UserError

Batch = Mapping[str, Any]

# ---- loss scaling ----------------------------------------------------------------------------


class GradientScaler(torch.amp.GradScaler):
    """Loss scaling (Micikevicius et al. 2018, arXiv 1710.03740) for a plain `optimizer.step()`.

    The step of an attached optimizer divides its gradients by the scale, and is skipped if one of
    them is not finite; `update` adapts the scale to that, once per step of training.
    """

    _checked = False  # whether an optimizer has stepped since the last update

    def attach(self, optimizers: Iterable[Optimizer]) -> None:
        """Take part in the steps of these optimizers."""
        for optimizer in optimizers if self.is_enabled() else ():
            optimizer.register_step_pre_hook(self._before_step)
            optimizer.register_step_post_hook(self._after_step)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.unscale_(optimizer)
        found_inf = sum(self._found_inf_per_device(optimizer).values())
        self._checked = self._checked or isinstance(found_inf, Tensor)
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # no host waits for it
        elif found_inf:
            optimizer.zero_grad()  # a step without gradients changes nothing

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        vars(optimizer).pop("found_inf", None)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the scale, if an optimizer has stepped."""
        if self._checked:
            super().update(new_scale)
        self._checked = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a scale, if there is one: the state may be of a run that needed none."""
        if state_dict:
            super().load_state_dict(state_dict)


def fuse(optimizers: Iterable[Optimizer]) -> None:
    """Let Adam and AdamW update all weights in one pass over them, where nothing else was asked."""
    for optimizer in optimizers:
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
            continue
        for group in optimizer.param_groups:
            asked = any(group[k] for k in ("fused", "foreach", "capturable", "differentiable"))
            if not asked and all(_fusible(parameter) for parameter in group["params"]):
                group["fused"] = True
        if all(group["fused"] for group in optimizer.param_groups):
            optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]  # as fused=True does


def _fusible(parameter: nn.Parameter) -> bool:
    return parameter.device.type in ("cpu", "cuda") and parameter.is_floating_point()


@contextmanager
def frozen(*nets: nn.Module) -> Iterator[None]:
    """Within this block the networks get no gradients, which saves computing them."""
    before = [(weight, weight.requires_grad) for net in nets for weight in net.parameters()]
    for weight, _ in before:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight, required in before:
            weight.requires_grad_(required)


def watch(
    optimizers: Iterable[Optimizer],
    gradient_came: Callable[[Tensor], None],
    steps: Callable[..., None],
) -> None:
    """Call `gradient_came` with each parameter that has got one, and `steps` before each step."""
    for optimizer in optimizers:
        optimizer.register_step_pre_hook(steps)
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(gradient_came)


def wrong_step(model: Any) -> UserError:
    """What to write in a model whose `optimize_parameters` does not do what the options ask for."""
    opt, name = model.opt, type(model).__name__
    flag = (
        f"--accumulate {opt.accumulate}" if opt.accumulate > 1 else f"--precision {opt.precision}"
    )
    loop = ", within `for _ in self.micro_batches():`, and optimizer.step() after that loop"
    return UserError(
        f"{flag} needs another optimize_parameters in {name}: write self.backward(loss), not "
        f"loss.backward(){loop if opt.accumulate > 1 else ''}, as models/template_model.py does "
        f"(if {name} has a method `backward` of its own, give that another name); or leave out "
        f"{flag.split()[0]}"
    )


# ---- gradient accumulation -------------------------------------------------------------------


class MicroBatches:
    """A batch in parts that a model computes one after the other, to need the memory of one.

    Iterating puts each part in turn into the model, by its `set_input`, and yields its number. Then
    the losses and images that a pass over the parts has made are those of the batch. A model may
    pass over them more than once.
    """

    def __init__(self, model: Any, batch: Batch, size: int | None):
        """Cut a batch, and put the first part into the model.

        Args:
            model: a BaseModel.
            batch: tensors (N, …) and lists of N by name.
            size: images in a part, the last may have less; None for one part.
        """
        self.model, self.parts = model, cut(batch, size) if size else [batch]
        self.weight: float | None = None if len(self) > 1 else 1.0  # of a part in a pass
        self._before: dict[str, Any] | None = self._results()  # what is not of this batch
        self._place = 0
        model.set_input(self.parts[0])

    def __len__(self) -> int:
        """How many parts there are."""
        return len(self.parts)

    def __iter__(self) -> Iterator[int]:
        """Pass over the parts. Ranks average their gradients at the last one."""
        if len(self) == 1:
            yield 0
            return
        before = self._results() if self._before is None else self._before
        self._before, made = None, []
        counts = [_length(part) for part in self.parts]
        weights = [count / sum(counts) for count in counts]  # shares of the images
        for place in range(len(self)):
            self._enter(place)
            nets = self.model.named_networks().values() if place < len(self) - 1 else ()
            self.weight = weights[place]
            with distributed.unsynchronised(nets):
                yield place
            self.weight = None
            results = self._results().items()
            made.append({k: _detached(v) for k, v in results if v is not before.get(k)})
        for name in set.intersection(*map(set, made)):
            setattr(self.model, name, _joined([results[name] for results in made], weights))

    def _enter(self, place: int) -> None:
        if place != self._place:
            self.model.set_input(self.parts[place])
        self._place = place

    def _results(self) -> dict[str, Any]:
        model = self.model
        losses = [f"loss_{name}" for name in (*model.loss_names, "G")]  # loss_G: --lr_policy
        names = [*losses, *model.visual_names, *model.visual_sources, "image_paths"]
        return {name: getattr(model, name) for name in names if hasattr(model, name)}


def _joined(values: list[Any], weights: list[float]) -> Any:
    first = values[0]
    if isinstance(first, list | tuple):
        return [item for value in values for item in value]
    if isinstance(first, Tensor) and first.dim() == 4:
        return torch.cat(values)
    if isinstance(first, Tensor | float | int):
        return sum(w * value for w, value in zip(weights, values, strict=True))
    return values[-1]


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def cut(batch: Batch, size: int) -> list[Batch]:
    """A batch in parts of `size` images; what is neither tensor nor list goes to each of them."""
    count = _length(batch)

    def part(value: Any, start: int) -> Any:
        cuttable = isinstance(value, Tensor | list | tuple) and len(value) == count
        return value[start : start + size] if cuttable else value

    return [{k: part(v, start) for k, v in batch.items()} for start in range(0, count, size)]


def _length(batch: Batch) -> int:
    return next(len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim())


# ---- several batches in one call -------------------------------------------------------------


def batches_alike(net: nn.Module, *batches: Tensor) -> bool:
    """Whether `net` may take these batches as one: it gives each image the answer it has alone.

    Not a compiled one on a CPU, whose code for the norm of several images is slow
    (docs/performance.md).
    """
    net = distributed.unwrap(net)
    slow = net._compiled_call_impl is not None and batches[0].device.type == "cpu"
    one_size = len({batch.shape[1:] for batch in batches}) == 1
    return one_size and not slow and networks.normalizes_per_sample(net)


def call_batched(net: nn.Module, *batches: Tensor) -> Sequence[Tensor]:
    """`net` of each batch, (N, C, H, W): in one call where that changes nothing."""
    if len(batches) > 1 and batches_alike(net, *batches):
        return net(torch.cat(batches)).split([len(batch) for batch in batches])
    return [net(batch) for batch in batches]


# ---- failures explained ----------------------------------------------------------------------

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
def shortage_explained(opt: argparse.Namespace, batch: Batch) -> Iterator[None]:
    """Within this block running out of memory is a UserError that says what helps.

    Args:
        opt: the options of the run.
        batch: the batch at hand.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not any(t in str(error) for t in TEXTS):
            raise
        raise UserError(_explanation(opt, batch)) from None


def _explanation(opt: argparse.Namespace, batch: Batch) -> str:
    """What ran out, and the remedies that are left, the one that costs least first."""
    images = [v for v in batch.values() if isinstance(v, Tensor) and v.dim() == 4]
    height, width = images[0].shape[-2:] if images else (opt.crop_size, opt.crop_size)
    parts = f" in {opt.accumulate} micro-batches" if opt.accumulate > 1 else ""
    return (
        f"out of memory on {opt.device}, with images of {height}x{width} (height x width) pixels "
        f"and a batch of {opt.batch_size}{parts}. Try, in this order: {'; '.join(_remedies(opt))}"
    )


def _remedies(opt: argparse.Namespace) -> Iterator[str]:
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
