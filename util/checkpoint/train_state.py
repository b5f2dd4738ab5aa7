"""The training state: collected from a model, put back, and its file.

In it, without being listed: the state of every attribute with `state_dict` and `load_state_dict`,
alone or in a list or dict; every number and nn.Parameter that training has changed; random states.
Pools, numbers and random states are kept for each rank.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from util import distributed, rng
from util.checkpoint.files import Damaged, load, save, state_path
from util.errors import UserError
from util.version import VERSION

FORMAT = 1  # of the file
COUNTERS = ("epoch", "position", "total_iters", "images")
SAME_ON_ALL_RANKS = (nn.Module, torch.optim.Optimizer, LRScheduler, ReduceLROnPlateau)
NUMBER = (int, float, np.bool_, np.integer, np.floating)
DEVICE_FLAGS = ("fused", "foreach", "capturable", "differentiable")  # by the device at hand
WITHOUT_IT = "remove the training state to start from the weights only"


def save_train_state(directory: Path, tag: str, state: Mapping[str, Any]) -> None:
    """Save what a run resumes from: what `collect` returned, with "progress" and "options"."""
    versions = {"format": FORMAT, "program": VERSION, "torch": str(torch.__version__)}
    save(versions | dict(state), state_path(directory, tag))


def load_train_state(directory: Path, tag: str) -> dict[str, Any] | None:
    """What save_train_state saved, with versions; None if there is none, as with the original's."""
    path = state_path(directory, tag)
    if not path.exists():
        return None
    try:
        state = load(path, mmap=True)
    except Damaged as error:
        raise UserError(f"{error}; or {WITHOUT_IT}") from None
    match state:  # `restore` looks at the rest
        case {"format": int(version)} if version > FORMAT:
            raise UserError(f"{path} is from a newer version of this program; train on with that")
        case {"format": int(), "ranks": [_, *_], "options": dict(), "progress": dict(progress)}:
            counts = [progress.get(name) for name in COUNTERS]
            if state["format"] == FORMAT and all(type(n) is int and n >= 0 for n in counts):
                return state
    raise UserError(f"{path} holds no training state; {WITHOUT_IT}")


def stateful(model: object) -> Iterator[tuple[str, Any]]:
    """Every attribute with a state, and those in lists and dicts, once and by name."""
    seen: set[int] = set()
    for name, value in vars(model).items():
        if isinstance(value, (list, tuple)):
            value = dict(enumerate(value))
        listed = isinstance(value, dict)
        for key, thing in value.items() if listed else [("", value)]:
            thing = distributed.unwrap(thing)  # or its names would depend on the number of ranks
            has_state = hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")
            if has_state and not isinstance(thing, type) and id(thing) not in seen:
                seen.add(id(thing))
                yield f"{name}.{key}" if listed else name, thing


def numbers(model: object) -> dict[str, Any]:
    """The numbers, and parameters of no network, among the attributes of a model, by name."""
    found = {}
    for name, value in vars(model).items():
        if isinstance(value, Tensor) and (value.dim() == 0 or isinstance(value, nn.Parameter)):
            found[name] = plain(value, name).clone()
        elif isinstance(value, NUMBER):
            found[name] = plain(value, name)
    return found


class Before(NamedTuple):
    """What a model was before training; see `numbers` and `constants`."""

    numbers: dict[str, Any]
    constants: dict[str, list[Tensor]]


def before_training(model: Any) -> Before:
    """What is needed to see later what training has changed."""
    return Before(numbers(model), constants(model))


def constants(model: Any) -> dict[str, list[Tensor]]:
    """The sums of the tensors of each network that nothing trains and that is not saved by itself.

    A pretrained network for a loss is one. It is no part of a state while these sums stay.
    """
    own = [distributed.unwrap(net) for net in model.named_networks().values()]
    return {
        name: [t.double().sum() for t in thing.state_dict().values() if isinstance(t, Tensor)]
        for name, thing in stateful(model)
        if isinstance(thing, nn.Module)
        and not any(weight.requires_grad for weight in thing.parameters())
        and not any(thing is net for net in own)
    }


def _same(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(before, Tensor):
        return torch.equal(value, before)
    return type(value) is type(before) and value == before


def collect(model: Any, before: Before, device: torch.device) -> dict[str, Any]:
    """The state of all ranks, on rank 0 (else empty); call it on every rank, between two steps.

    By what was so `before` training, constants are told from counters. In it:
    "objects", by name, alike on all ranks; "ranks", for each "objects", "numbers" and "random".
    """
    alike, own, still = {}, {}, constants(model)
    for name, thing in stateful(model):
        if name in still and still[name] == before.constants.get(name):
            continue
        if not isinstance(thing, SAME_ON_ALL_RANKS):
            own[name] = plain(thing.state_dict(), name)
        elif distributed.is_main():
            alike[name] = plain(thing.state_dict(), name)
    now = numbers(model)
    changed = {name for name, value in now.items() if not _same(value, before.numbers.get(name))}
    changed.update(*distributed.gather_everywhere(changed))  # on one rank is enough
    kept = {name: value for name, value in now.items() if name in changed}
    mine = {"objects": own, "numbers": kept, "random": rng.get_state(device)}
    ranks = distributed.gather(mine)
    return {"objects": alike, "ranks": ranks} if ranks else {}


def plain(value: Any, name: str) -> Any:
    """A copy of a state, tensors on the CPU; UserError if it is more than plain data."""
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
        return value.detach().as_subclass(Tensor).cpu()
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return None
    if isinstance(value, str):
        return str.__str__(value)  # a subclass, such as an enum, would be code in a file
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, dict):
        pairs = value.items()
        return {plain(k, f"{name}, a key:"): plain(v, f"{name}.{k}") for k, v in pairs}
    if isinstance(value, (list, tuple)):
        parts = [plain(part, f"{name}.{place}") for place, part in enumerate(value)]
        return parts if isinstance(value, list) else tuple(parts)
    raise UserError(
        f"the model's attribute {name} keeps a {type(value).__name__} in its state, which cannot "
        "be saved; its state_dict() may have numbers, strings, tensors, lists and dicts"
    )


def check_finite(model: object) -> None:
    """Make sure that all weights are finite before they replace good ones; UserError if not."""
    for name, thing in stateful(model):
        weights = thing.parameters() if isinstance(thing, nn.Module) else ()
        if not all(bool(weight.isfinite().all()) for weight in weights):
            raise UserError(
                f"weights of {name} are not finite any more, so they were not saved; resume from "
                "the last checkpoint with --continue_train, or start anew with a lower --lr"
            )


def restore(model: Any, state: Mapping[str, Any] | None) -> None:
    """Put back what `collect` returned, maybe on another number of ranks; call it on every rank.

    `model` has been set up, with the options of the run; `state` is there on rank 0.
    """
    things = dict(stateful(model))
    with _damage_explained():
        dealt = deal(state["ranks"], distributed.world_size()) if state else []
        alike = state["objects"] if state else {}
    mine, alike = distributed.scatter(dealt), distributed.broadcast(alike)
    with _damage_explained():
        saved = alike | mine["objects"]
        extra, missing = saved.keys() - things.keys(), things.keys() - saved.keys()
        if extra or missing - constants(model).keys():
            theirs, ours = (", ".join(sorted(names)) or "nothing" for names in (extra, missing))
            raise ValueError(f"it alone has {theirs}, {type(model).__name__} alone has {ours}")
        for name, saved_state in saved.items():
            _load(things[name], saved_state)
        for name, value in mine["numbers"].items():
            _set(model, name, value)
        for thing in things.values():
            _follow_new_epochs(thing)
        rng.set_state(mine["random"], own=mine["dealt"])


@contextmanager
def _damage_explained() -> Iterator[None]:
    """A state of other code, or one changed by hand, fails in many ways: one message."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise UserError(
            f"the training state does not fit the model or is damaged ({reason}); train on with "
            f"the code of that run, or {WITHOUT_IT}"
        ) from error


def deal(ranks: list[dict[str, Any]], world_size: int) -> list[dict[str, Any]]:
    """The states of `ranks` for another number of them.

    Images of the pools are dealt like cards, floats become their mean over the ranks, and a rank
    that was not there before draws random numbers of its own.
    """
    if len(ranks) == world_size:
        return [rank | {"dealt": True} for rank in ranks]
    numbers = {
        name: _mean([rank["numbers"][name] for rank in ranks if name in rank["numbers"]])
        for name in ranks[0]["numbers"]
    }
    return [
        {
            "objects": _deal_objects(ranks, place, world_size),
            "numbers": numbers,
            "random": ranks[place % len(ranks)]["random"],
            "dealt": place < len(ranks),
        }
        for place in range(world_size)
    ]


def _deal_objects(ranks: list[dict[str, Any]], place: int, world_size: int) -> dict[str, Any]:
    dealt = dict(ranks[place % len(ranks)]["objects"])
    for name, state in dealt.items():
        if isinstance(state, dict) and isinstance(state.get("images"), list):
            pools = [rank["objects"][name]["images"] for rank in ranks]
            cards = [image for row in zip_longest(*pools) for image in row if image is not None]
            dealt[name] = state | {"images": cards[place::world_size]}
    return dealt


def _mean(values: list[Any]) -> Any:
    """Counters are alike on all ranks."""
    floats = all(torch.as_tensor(value).is_floating_point() for value in values)
    return sum(values) / len(values) if floats else values[0]


def _load(thing: Any, state: Any) -> None:
    if isinstance(thing, torch.optim.Optimizer):
        groups = zip(state["param_groups"], thing.param_groups, strict=True)
        kept = [old | {k: new[k] for k in DEVICE_FLAGS if k in new} for old, new in groups]
        state = state | {"param_groups": kept}
    thing.load_state_dict(state)


def _set(model: Any, name: str, value: Any) -> None:
    """Put a number back; a parameter stays the object that its optimizer knows."""
    ours = getattr(model, name, None)
    if not isinstance(ours, (*NUMBER, Tensor, type(None))):
        raise ValueError(f"{name} is no number of the model")
    if isinstance(ours, nn.Parameter) and ours.shape == value.shape:
        ours.data.copy_(value)
    else:
        setattr(model, name, value.to(model.device) if isinstance(value, Tensor) else value)


def _follow_new_epochs(scheduler: Any) -> None:
    """The saved learning rate is that for the old number of epochs."""
    if type(scheduler) is not LambdaLR:
        return
    pairs = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    rates = [rate * factor(scheduler.last_epoch) for rate, factor in pairs]
    if rates != scheduler.get_last_lr():  # else the model may have changed it by itself
        for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates
