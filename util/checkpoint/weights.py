"""The weights of networks: state dicts with the keys of the original."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from util import distributed
from util.checkpoint.files import load, save
from util.errors import UserError

PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")  # of nn.DataParallel, DDP and torch.compile
RUNNING = ("running_mean", "running_var", "num_batches_tracked")
SINCE_0_4_1 = "num_batches_tracked"  # older batch norm checkpoints lack it
StateDict = Mapping[str, Tensor]


def save_weights(net: nn.Module, path: Path) -> None:
    """Save the state dict of a network, on the CPU and without the names of its wrappers."""
    state = distributed.unwrap(net).state_dict()
    save({key: value.detach().cpu() for key, value in state.items()}, path)


def load_weights(
    net: nn.Module, path: Path, explain: Callable[[StateDict, StateDict], str] | None = None
) -> None:
    """Load a state dict of this program or of the original into `net`, wrapped or not, strictly.

    UserError if it does not fit, with what `explain` says of the network's state dict and the
    file's: which options are the likely cause.
    """
    found = load(path)
    if not _is_state_dict(found):
        raise UserError(f"{path} holds no state dict (names with tensors), so it is no network")
    net = distributed.unwrap(net)
    expected = net.state_dict()
    state = {k if k in expected else PREFIXES.sub("", k): value for k, value in dict.items(found)}
    _drop_old_instance_norm(net, state)
    problem = _mismatch(expected, state)
    if problem and explain:
        with suppress(Exception):  # weights so strange that nothing explains them
            problem += explain(expected, state)
    if problem:
        raise UserError(f"{path} does not fit the network: {problem}")
    net.load_state_dict(expected | state)


def _is_state_dict(state: Any) -> bool:
    """`dict.items`, because an attribute in a made-up file may hide the method."""
    return isinstance(state, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in dict.items(state)
    )


def _drop_old_instance_norm(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Before torch 0.4 InstanceNorm2d saved running statistics, which it did not use."""
    for name, module in net.named_modules():
        plain = isinstance(module, nn.InstanceNorm2d) and not module.track_running_stats
        if plain and f"{name}.weight" not in state:  # with weights it was a batch norm
            for buffer in RUNNING:
                state.pop(f"{name}.{buffer}", None)


def _mismatch(expected: StateDict, found: StateDict) -> str:
    """What is wrong with `found`; "" if it fits."""
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    if extra or not all(key.endswith(SINCE_0_4_1) for key in missing):
        return f"{len(missing)} of its weights are missing, {len(extra)} are none of its"
    for key, theirs in found.items():
        ours = expected[key]
        same_kind = theirs.is_floating_point() == ours.is_floating_point()
        if theirs.shape != ours.shape or not same_kind:
            here = f"{list(ours.shape)} {ours.dtype} here"
            return f"{key} is {list(theirs.shape)} {theirs.dtype} in the file and {here}"
    return ""
