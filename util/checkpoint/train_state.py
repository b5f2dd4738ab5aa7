"""What a run goes on from, collected from a model and put back; util/checkpoint has the files.

Nothing in a model has to be listed. Every attribute that has `state_dict` and `load_state_dict`
is kept: networks, optimizers, schedules, image pools, a gradient scaler; so is every number and
every nn.Parameter that training has changed, such as a counter of steps. Random states, pools and
numbers are kept for each rank, the rest once.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from util import distributed, rng
from util.checkpoint.plausible import check_optimizer, check_schedule, check_setting
from util.checkpoint.safe_load import LARGEST_TUPLE
from util.errors import UserError

ALIKE = (nn.Module, torch.optim.Optimizer, LRScheduler, ReduceLROnPlateau)  # on all ranks
NUMBER = (bool, int, float, np.bool_, np.integer, np.floating)
PLAIN = (  # a subclass, such as an enum, would be code in a file
    ((bool, np.bool_), bool), ((int, np.integer), int), ((float, np.floating), float),
    (str, str.__str__),
)  # fmt: skip
HOW_IT_IS_COMPUTED = ("fused", "foreach", "capturable", "differentiable")  # by the device at hand


class Numbers:
    """The numbers, and parameters of no network, among the attributes of a model.

    Args:
        model: as it is before training; the constants in it are told from counters by that.
    """

    def __init__(self, model: object):
        """Remember the values."""
        self.model, self.before = model, _numbers(model)

    def now(self) -> dict[str, Any]:
        """Name to value."""
        return _numbers(self.model)

    def changed(self, now: Mapping[str, Any]) -> list[str]:
        """The names of those that training has changed."""
        return [name for name, value in now.items() if not _same(value, self.before.get(name))]


def _numbers(model: object) -> dict[str, Any]:
    found = {}
    for name, value in vars(model).items():
        if isinstance(value, Tensor) and (value.dim() == 0 or isinstance(value, nn.Parameter)):
            found[name] = plain(value, name).clone()
        elif isinstance(value, NUMBER):
            found[name] = plain(value, name)
    return found


def _same(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(before, Tensor):
        return torch.equal(value, before)
    return type(value) is type(before) and value == before


def collect(model: object, numbers: Numbers, device: torch.device) -> dict[str, Any]:
    """The state of all ranks, on rank 0; call it on every rank.

    Args:
        model: between two steps.
        numbers: made of it before training.
        device: of this rank.

    Returns:
        "objects": name to state, alike on all ranks; "ranks": for each rank "objects", "numbers"
        and "random". Plain data and tensors on the CPU. Empty on the other ranks.

    Raises:
        UserError: an attribute's state is more than plain data, which could not be loaded again.
    """
    alike, own = {}, {}
    for name, thing in stateful(model):
        if not isinstance(thing, ALIKE):
            own[name] = plain(thing.state_dict(), name)
        elif distributed.is_main():
            alike[name] = plain(thing.state_dict(), name)
    now = numbers.now()
    mine = {"objects": own, "numbers": now, "random": rng.get_state(device)}
    ranks = distributed.gather((mine, numbers.changed(now)))
    changed = {name for _, names in ranks for name in names}  # on one rank perhaps, of all kept
    for rank, _ in ranks:
        rank["numbers"] = {k: v for k, v in rank["numbers"].items() if k in changed}
    return {"objects": alike, "ranks": [rank for rank, _ in ranks]} if ranks else {}


def restore(model: object, state: Mapping[str, Any] | None) -> None:
    """Put a state back; call it on every rank.

    Args:
        model: built with the options of the run, after its setup.
        state: what `collect` returned, on rank 0; it may be of another number of ranks.

    Raises:
        UserError: it is the state of another model, or damaged.
    """
    things = dict(stateful(model))
    mine = distributed.scatter(deal(state["ranks"], distributed.world_size()) if state else [])
    alike = distributed.broadcast(state["objects"] if state else None)
    with _damage_explained():
        _compare_names(things, alike.keys() | mine["objects"].keys(), type(model).__name__)
        for name, thing in things.items():
            _load(thing, alike[name] if name in alike else mine["objects"][name])
        for name, value in mine["numbers"].items():
            _set(model, name, value)
        for thing in things.values():
            _follow_new_schedule(thing)
        (rng.set_state if mine["dealt"] else rng.set_shared_state)(mine["random"])


def deal(ranks: list[dict[str, Any]], world_size: int) -> list[dict[str, Any]]:
    """The states of `ranks` for another number of them; the same where it is the same.

    Image pools are shuffled like cards and dealt again. Sums over a rank's share become their
    mean. A rank that there was not before draws random numbers of its own.
    """
    if len(ranks) == world_size:
        return [rank | {"dealt": True} for rank in ranks]
    with _damage_explained():
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


def _deal_objects(ranks: list[dict], place: int, world_size: int) -> dict[str, Any]:
    dealt = dict(ranks[place % len(ranks)]["objects"])
    for name, state in dealt.items():
        if isinstance(state, dict) and isinstance(state.get("images"), list):
            pools = [rank["objects"][name]["images"] for rank in ranks]
            if not all(isinstance(pool, list) for pool in pools):
                raise ValueError(f"the pool {name} is no list")
            longest = max(map(len, pools))
            cards = [pool[i] for i in range(longest) for pool in pools if i < len(pool)]
            dealt[name] = state | {"images": cards[place::world_size]}
    return dealt


def _mean(values: list[Any]) -> Any:
    fractional = all(isinstance(v, float) or _is_fractional(v) for v in values)
    return sum(values) / len(values) if fractional else values[0]  # a counter is alike on all


def _is_fractional(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def stateful(model: object) -> Iterator[tuple[str, Any]]:
    """Every attribute with a state, and those in lists and dicts, once and by name."""
    seen: set[int] = set()
    for name, value in vars(model).items():
        for key, thing in _parts(name, value):
            has_state = hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")
            if not has_state or isinstance(thing, type):
                continue
            thing = distributed.unwrap(thing)  # or its names would depend on the number of ranks
            if id(thing) not in seen:
                seen.add(id(thing))
                yield key, thing


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple)):
        for place, part in enumerate(value):
            yield f"{name}.{place}", part
    elif isinstance(value, dict):
        for key, part in value.items():
            yield f"{name}.{key}", part
    else:
        yield name, value


def plain(value: Any, name: str) -> Any:
    """A copy of a state in plain containers, with its tensors on the CPU.

    Raises:
        UserError: there is something else in it, which torch.load(weights_only=True) refuses.
    """
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
        return value.detach().as_subclass(Tensor).cpu()
    for kinds, as_plain in PLAIN:
        if isinstance(value, kinds):
            return as_plain(value)
    if value is None:
        return None
    if isinstance(value, dict):
        keys = [plain(key, f"{name}, a key:") for key in value]
        parts = [plain(part, f"{name}.{key}") for key, part in value.items()]
        return dict(zip(keys, parts, strict=True))
    if isinstance(value, list) or (isinstance(value, tuple) and len(value) < LARGEST_TUPLE):
        parts = [plain(part, f"{name}.{place}") for place, part in enumerate(value)]
        return parts if isinstance(value, list) else tuple(parts)
    raise UserError(
        f"the model's attribute {name} keeps a {type(value).__name__} in its state, which cannot "
        "be saved safely; its state_dict() may have numbers, strings, tensors, lists and dicts"
    )


def _load(thing: Any, state: Any) -> None:
    if isinstance(thing, torch.optim.Optimizer):
        groups = zip(state["param_groups"], thing.param_groups, strict=True)
        kept = [
            saved | {k: ours[k] for k in HOW_IT_IS_COMPUTED if k in ours} for saved, ours in groups
        ]
        state = state | {"param_groups": kept}
        check_optimizer(thing, state)
    elif isinstance(thing, (LRScheduler, ReduceLROnPlateau)):
        check_schedule(thing, state)
    thing.load_state_dict(state)


def _set(model: object, name: str, value: Any) -> None:
    """Put a number back; a parameter stays the object that its optimizer knows."""
    ours = getattr(model, name, None)
    check_setting(ours, value, name)
    if isinstance(ours, nn.Parameter) and ours.shape == value.shape:
        ours.data.copy_(value)
    else:
        setattr(model, name, value.to(model.device) if isinstance(value, Tensor) else value)


def _follow_new_schedule(thing: Any) -> None:
    """The saved learning rate is that of the old schedule; more epochs make it another one."""
    if type(thing) is not LambdaLR:
        return
    factors = [factor(thing.last_epoch) for factor in thing.lr_lambdas]
    rates = [rate * factor for rate, factor in zip(thing.base_lrs, factors, strict=True)]
    if rates != thing.get_last_lr():  # else the model may have changed it by itself
        for group, rate in zip(thing.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        thing._last_lr = rates


def _compare_names(ours: Mapping[str, Any], saved: set[str], model: str) -> None:
    if ours.keys() != saved:
        raise UserError(
            f"the training state does not fit {model}: it alone has {_named(saved - ours.keys())}, "
            f"{model} alone has {_named(ours.keys() - saved)}; train on with the code of that run, "
            "or remove the training state to start from the weights only"
        )


def _named(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


@contextmanager
def _damage_explained() -> Iterator[None]:
    """A state that was changed by hand or comes from other code fails in many ways: one message."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"the training state does not fit the model or is damaged ({reason}); train on with "
            "the code of that run, or remove the training state to start from the weights only"
        ) from error


def check_finite(model: object) -> None:
    """Make sure that all weights are finite before they take the place of good ones.

    Raises:
        UserError: a network has weights that are not.
    """
    for name, thing in stateful(model):
        weights = thing.parameters() if isinstance(thing, nn.Module) else ()
        if not all(bool(weight.isfinite().all()) for weight in weights):
            raise UserError(
                f"weights of {name} are not finite any more, so they were not saved; go on from "
                "the last checkpoint with --continue_train, or start anew with a lower --lr"
            )
