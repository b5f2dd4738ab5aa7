"""A step of training: loss scaling, gradient accumulation, batched calls.

`BaseModel.train_on` puts these around a model's `optimize_parameters`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.networks.norms import normalizes_per_sample
from util import distributed
from util.errors import UserError

Batch = Mapping[str, Any]

# ---- optimizers and loss scaling -------------------------------------------------------------


class GradientScaler(torch.amp.GradScaler):
    """Loss scaling (Micikevicius et al. 2018, arXiv 1710.03740) for a plain `optimizer.step()`.

    The step of an attached optimizer divides its gradients by the scale, and is skipped if one of
    them is not finite; `update` adapts the scale to that, once per step of training.
    """

    _attached: Sequence[Optimizer] = ()

    def attach(self, optimizers: Sequence[Optimizer]) -> None:
        """Take part in the steps of these optimizers."""
        self._attached = optimizers if self.is_enabled() else ()
        for optimizer in self._attached:
            optimizer.register_step_pre_hook(self._before_step)
            optimizer.register_step_post_hook(self._after_step)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.unscale_(optimizer)
        found_inf = sum(self._found_inf_per_device(optimizer).values())
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # no host waits for it
        elif found_inf:
            optimizer.zero_grad()  # a step without gradients changes nothing

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        vars(optimizer).pop("found_inf", None)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the scale, if an optimizer has stepped since the last update."""
        if any(self._per_optimizer_states[id(o)]["found_inf_per_device"] for o in self._attached):
            super().update(new_scale)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a scale, if there is one: the state may be of a run that needed none."""
        if state_dict:
            super().load_state_dict(state_dict)


def fuse(optimizers: Iterable[Optimizer]) -> None:
    """Let Adam and AdamW update all weights in one pass over them, where nothing else was asked."""
    for optimizer in optimizers:
        groups = optimizer.param_groups
        if type(optimizer) in (torch.optim.Adam, torch.optim.AdamW) and all(map(_fusible, groups)):
            for group in groups:
                group["fused"] = True
            optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]  # as fused=True does


def _fusible(group: dict[str, Any]) -> bool:
    asked = any(group[k] for k in ("foreach", "capturable", "differentiable"))
    fitting = (p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in group["params"])
    return not asked and all(fitting)


@contextmanager
def frozen(*nets: nn.Module) -> Iterator[None]:
    """Within this block the networks get no gradients, which saves computing them."""
    weights = [w for net in nets for w in net.parameters() if w.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


# ---- gradient accumulation -------------------------------------------------------------------


def watch(model: Any) -> None:
    """Stop a model that has gradients of another `backward`, or steps between micro-batches."""

    def on_gradient(weight: Tensor) -> None:
        if not model._in_backward:
            raise wrong_step(model)

    def on_step(*_: Any) -> None:
        if model.is_accumulating and model._micro_batches.share is not None:
            raise wrong_step(model)

    for optimizer in model.optimizers:
        optimizer.register_step_pre_hook(on_step)
        for weight in (w for group in optimizer.param_groups for w in group["params"]):
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(on_gradient)


def wrong_step(model: Any) -> UserError:
    """What to write in a model whose `optimize_parameters` does not do what the options ask for."""
    opt, name = model.opt, type(model).__name__
    flag, loop = f"--precision {opt.precision}", ""
    if opt.accumulate > 1:
        flag = f"--accumulate {opt.accumulate}"
        loop = ", within `for _ in self.micro_batches():`, and optimizer.step() after that loop"
    return UserError(
        f"{flag} needs another optimize_parameters in {name}: write self.backward(loss), not "
        f"loss.backward(){loop}, as models/template_model.py does (if {name} has a method "
        f"`backward` of its own, give that another name); or leave out {flag.split()[0]}"
    )


class MicroBatches:
    """A batch in parts that a model computes one after the other, to need the memory of one.

    Iterating puts each part in turn into the model, by its `set_input`, and yields its number; a
    model may pass over them more than once. After a pass its losses are means over the batch, its
    images are those of the last part, and its `image_paths` all, those of the last part first.
    """

    def __init__(self, model: Any, batch: Batch):
        """Cut a batch as the model's --accumulate says; the model gets the first part at once."""
        size, several = model.opt.batch_size // model.opt.accumulate, model.opt.accumulate > 1
        self.model, self.parts = model, cut(batch, size) if several else [batch]
        self.share = 1.0 if len(self) == 1 else None  # of the part at hand; None outside of a pass
        model.set_input(self.parts[0])

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[int]:
        if len(self) == 1:
            yield 0
            return
        model, means, paths = self.model, dict[str, Any](), list[str]()
        losses = [f"loss_{name}" for name in (*model.loss_names, "G")]  # loss_G is for plateau
        counts = [_length(part) for part in self.parts]
        for place, part in enumerate(self.parts):
            model.set_input(part)
            self.share = counts[place] / sum(counts)
            nets = model.named_networks().values() if place < len(self) - 1 else ()
            with distributed.unsynchronised(nets):  # ranks average their gradients at the last one
                yield place
            known = [name for name in losses if getattr(model, name, None) is not None]
            with torch.no_grad():
                means |= {k: means.get(k, 0) + self.share * getattr(model, k) for k in known}
            paths = [*model.image_paths, *paths]
        vars(model).update(means, image_paths=paths)
        self.share = None


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


def call_batched(net: nn.Module, *batches: Tensor) -> Sequence[Tensor]:
    """`net` of each batch, (N, C, H, W): in training in one call, where that changes nothing.

    Not of a compiled one on a CPU, whose code for the norm of several images is slow
    (docs/performance.md).
    """
    plain = distributed.unwrap(net)
    slow = plain._compiled_call_impl is not None and batches[0].device.type == "cpu"
    alike = len({batch.shape[1:] for batch in batches}) == 1 and normalizes_per_sample(plain)
    if len(batches) > 1 and alike and not slow and torch.is_grad_enabled():
        return net(torch.cat(batches)).split([len(batch) for batch in batches])
    return [net(batch) for batch in batches]
