"""What a step of training is made of: loss scaling, micro-batches, batched calls."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.networks import DISCRIMINATORS, normalizes_per_sample
from util import distributed
from util.errors import ImageSizeError, UserError

Batch = Mapping[str, Any]
SHORTAGES = (  # CUDA, MPS; the CPU's; cuBLAS, cuDNN
    "out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED",
)  # fmt: skip


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

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.unscale_(optimizer)
        found_inf = sum(self._found_inf_per_device(optimizer).values())
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # no host waits for it
        elif found_inf:
            optimizer.zero_grad()  # a step without gradients changes nothing

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the scale, if an optimizer has stepped since the last update."""
        if any(self._per_optimizer_states[id(o)]["found_inf_per_device"] for o in self._attached):
            super().update(new_scale)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a scale; the state is empty where the run needed none."""
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
    return not asked and all(fitting) and not any(map(_misread, group["params"]))


def _misread(weight: Tensor) -> bool:
    """Whether fused Adam of CUDA takes a weight's layout for another: 1x1, before torch 2.5."""
    return weight.is_cuda and weight.shape[2:] == (1, 1) and torch.__version__ < "2.5"


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


def call_batched(net: nn.Module, *batches: Tensor) -> Sequence[Tensor]:
    """`net` of each batch, (N, C, H, W): in training in one call, where that changes nothing."""
    plain = distributed.unwrap(net)
    # compiled code for the norm of several images is slow on a CPU (docs/performance.md)
    slow = plain._compiled_call_impl is not None and batches[0].device.type == "cpu"
    alike = len({batch.shape[1:] for batch in batches}) == 1
    several = len(batches) > 1 and torch.is_grad_enabled()
    if several and alike and not slow and normalizes_per_sample(plain):
        return net(torch.cat(batches)).split([len(batch) for batch in batches])
    return [net(batch) for batch in batches]


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
    flag, loop = f"--precision {model.opt.precision}", ""
    if model.opt.accumulate > 1:
        flag = f"--accumulate {model.opt.accumulate}"
        loop = ", within `for _ in self.micro_batches():`, and optimizer.step() after that loop"
    return UserError(
        f"{flag}: {type(model).__name__} must call self.backward(loss), not loss.backward(){loop}, "
        "as models/template_model.py does, and have no other method `backward`"
    )


class MicroBatches:
    """A batch in the parts of --accumulate, computed one after the other to need less memory.

    Iterating puts each part in turn into the model, by its `set_input`, and yields its number; a
    model may pass over them more than once. After a pass its losses are means over the batch, its
    images are those of the last part, and its `image_paths` all, those of the last part first.
    """

    def __init__(self, model: Any, batch: Batch):
        self.model, self.parts = model, cut(batch, model.opt.batch_size // model.opt.accumulate)
        self.share: float | None = None  # of the batch, in the part at hand; None outside of a pass
        model.set_input(self.parts[0][1])

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[int]:
        model, means, paths = self.model, dict[str, Any](), list[str]()
        losses = [f"loss_{name}" for name in (*model.loss_names, "G")]  # loss_G is for plateau
        for place, (share, part) in enumerate(self.parts):
            model.set_input(part)
            self.share = share
            nets = model.named_networks().values() if place < len(self) - 1 else ()
            with distributed.unsynchronised(nets):  # ranks average their gradients at the last one
                yield place
            known = [name for name in losses if getattr(model, name, None) is not None]
            with torch.no_grad():
                means |= {k: means.get(k, 0) + share * getattr(model, k) for k in known}
            paths = [*model.image_paths, *paths]
        vars(model).update(means, image_paths=paths)
        self.share = None


def cut(batch: Batch, size: int) -> list[tuple[float, Batch]]:
    """A batch in parts of `size` images, each with its share; what is no list is in all of them."""
    count = next(len(v) for v in batch.values() if isinstance(v, Tensor) and v.dim())

    def part(value: Any, start: int) -> Any:
        cuttable = isinstance(value, Tensor | list | tuple) and len(value) == count
        return value[start : start + size] if cuttable else value

    return [
        (min(size, count - start) / count, {k: part(v, start) for k, v in batch.items()})
        for start in range(0, count, size)
    ]


# ---- mistakes explained ----------------------------------------------------------------------


def check_discriminator(opt: Namespace) -> Iterator[str]:
    """For `check_options` of a model with a discriminator: the crop must be large enough for it."""
    if opt.isTrain and opt.netD in DISCRIMINATORS and "crop" in opt.preprocess:
        size, least = opt.crop_size, DISCRIMINATORS[opt.netD].minimum(opt.n_layers_D)
        if 0 < size < least:
            yield f"--crop_size {size} is too small for --netD {opt.netD}; use {least} or more"


@contextmanager
def name_images_in_errors(paths: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Within this block an image that a network cannot take is named in the error."""
    try:
        yield
    except ImageSizeError as error:
        names = ", ".join(map(str, paths()[:4]))
        raise UserError(f"in the batch of {names}: {error}") from None


@contextmanager
def explain_out_of_memory(opt: Namespace, batch: Batch) -> Iterator[None]:
    """Within this block running out of memory is a UserError that says what helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not any(t in str(error) for t in SHORTAGES):
            raise
        shapes = [v.shape for v in batch.values() if isinstance(v, Tensor) and v.dim() == 4]
        sizes = " and ".join(dict.fromkeys(f"{h}x{w}" for *_, h, w in shapes)) or "unknown"
        parts = f" in {opt.accumulate} micro-batches" if opt.accumulate > 1 else ""
        raise UserError(
            f"out of memory on {opt.device}, with images of {sizes} (height x width) pixels and a "
            f"batch of {opt.batch_size}{parts}. Try, in this order: {'; '.join(_remedies(opt))}"
        ) from None


def _remedies(opt: Namespace) -> Iterator[str]:
    """What is left to try, the one that costs least first."""
    size = opt.batch_size // opt.accumulate
    if size > 1:
        least = next(n for n in range(2, size + 1) if size % n == 0)
        yield f"--accumulate {opt.accumulate * least} (the same training, fewer images at a time)"
    recorded = opt.device.type == "cuda" and opt.accumulate == 1 and distributed.world_size() == 1
    if recorded and not opt.no_cuda_graph:
        yield "--no_cuda_graph (the same training, slower, with one memory for all batch sizes)"
    if not opt.checkpoint_activations and not opt.compile:
        yield "--checkpoint_activations (the same training, slower)"
    if opt.precision in ("fp32", "tf32"):
        yield "--precision bf16"
    if opt.batch_size > 1:
        yield "a smaller --batch_size"
    yield "a smaller --crop_size, with --preprocess resize_and_crop or crop"
