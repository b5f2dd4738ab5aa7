"""What makes all ranks train the same weights, those that one process would train.

They start from rank 0's weights and buffers, each takes an equal share of the batch, batch norm
uses the statistics of the whole batch, and DistributedDataParallel averages the gradients.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from util.distributed import ranks, sync_batch_norm
from util.errors import UserError

BATCH_NORM_REFUSED = (
    "{} would normalise each rank's share of the batch by itself; use --norm syncbatch (statistics "
    "over all ranks) or --norm instance (per image)"
)


def split_batch(global_batch_size: int) -> int:
    """The batch size of each rank; UserError where it does not come out even."""
    size = ranks.world_size()
    if global_batch_size % size or global_batch_size < 1:
        given = f"--global_batch_size {global_batch_size}"
        raise UserError(f"{given} cannot be split over {size} ranks; use a multiple of {size}")
    return global_batch_size // size


def norm_for_job(norm: str, given: bool) -> str:
    """On several ranks syncbatch in place of a default of batch; UserError if it was `given`."""
    if norm != "batch" or ranks.world_size() == 1:
        return norm
    if given:
        raise UserError(BATCH_NORM_REFUSED.format(f"--norm batch on {ranks.world_size()} ranks"))
    ranks.print0("--norm batch, the default of this model, becomes syncbatch on several ranks")
    return "syncbatch"


class Forwarding:
    """The attributes, items and loops of a wrapped network, or of a part of it.

    What is called of them, a method or a part, goes through the wrapper's `forward`, without which
    gradients would not be averaged.
    """

    def _wrapper_and_inner(self) -> tuple[Callable[..., Any], Any]:
        raise NotImplementedError

    def _as_part(self, found: Any) -> Any:
        method = isinstance(found, MethodType) and not hasattr(nn.Module, found.__name__)
        part = isinstance(found, nn.Module) or method and isinstance(found.__self__, nn.Module)
        return Part(self._wrapper_and_inner()[0], found) if part else found

    def __getitem__(self, key: Any) -> Any:
        return self._as_part(self._wrapper_and_inner()[1][key])

    def __len__(self) -> int:
        return len(self._wrapper_and_inner()[1])

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return map(self._as_part, self._wrapper_and_inner()[1])


class Wrapper(Forwarding, DistributedDataParallel):
    """DistributedDataParallel that plug-ins can use as the network that is in it."""

    def __init__(self, net: nn.Module, **options: Any) -> None:
        super().__init__(net, **options)
        vars(self)["_is_complete"] = True
        taken = (vars(self).keys() | set(dir(DistributedDataParallel))) - set(dir(nn.Module()))
        taken.discard("process_group")  # a SyncBatchNorm's
        clashes = [name for name in taken & set(dir(net)) if not self._has_same(net, name)]
        if clashes:
            raise UserError(
                f"{type(net).__name__} has attributes that DistributedDataParallel has, too: "
                f"{', '.join(sorted(clashes))}; call them otherwise to train on several ranks"
            )

    def _has_same(self, net: nn.Module, name: str) -> bool:
        """Whether the network's attribute is what anybody would read here, too."""
        theirs, ours = getattr(net, name), vars(self).get(name)
        return isinstance(theirs, str | int | torch.device | None) and theirs == ours

    def _wrapper_and_inner(self) -> tuple[Callable[..., Any], Any]:
        return self, self.module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's; UserError if some weights had no gradient in the last step."""
        try:
            return super().forward(*args, **kwargs)
        except RuntimeError as error:
            unused = re.search(r"did not receive grad for rank \d+: ([\d ]+)", str(error))
            if not unused:
                raise
        names = [name for name, weight in self.module.named_parameters() if weight.requires_grad]
        found = [names[int(place)] for place in unused[1].split()]
        raise UserError(
            f"weights of {type(self.module).__name__} had no part in the losses of a step: "
            f"{', '.join(found[:8])}{', …' * (len(found) > 8)}; on several ranks say so by "
            "`find_unused_parameters = True` in the model's class"
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return self._as_part(getattr(super().__getattr__("module"), name))

    def __setattr__(self, name: str, value: Any) -> None:
        own = name in vars(self) or name == "module" or hasattr(type(self), name)
        if own or "_is_complete" not in vars(self):
            super().__setattr__(name, value)
        else:
            setattr(self.module, name, value)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's."""
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's."""
        return self.module.load_state_dict(*args, **kwargs)


class Part(Forwarding):
    """A method or a part of a wrapped network, which is called through the wrapper's `forward`."""

    def __init__(self, wrapper: Callable[..., Any], inner: Callable[..., Any]) -> None:
        vars(self).update(_wrapper=wrapper, _inner=inner)

    def _wrapper_and_inner(self) -> tuple[Callable[..., Any], Any]:
        return self._wrapper, self._inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the part returns."""
        net = self._wrapper.module

        def forward(*args: Any, **kwargs: Any) -> Any:
            del net.forward  # the part may call it
            return self._inner(*args, **kwargs)

        net.forward = forward
        try:
            return self._wrapper(*args, **kwargs)
        finally:
            vars(net).pop("forward", None)

    def __getattr__(self, name: str) -> Any:
        return self._as_part(getattr(self._inner, name))

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)

    def __eq__(self, other: object) -> bool:
        return self._inner == (other._inner if isinstance(other, Part) else other)

    def __hash__(self) -> int:
        return hash(self._inner)


def wrap(net: nn.Module, norm: str, find_unused: bool = False) -> nn.Module:
    """The network, on its device, in DistributedDataParallel; on one rank, the network itself.

    It takes over rank 0's weights and buffers, and any BatchNorm in it becomes SyncBatchNorm;
    with `norm` "batch", which would say otherwise, ValueError. `find_unused`: a step may leave out
    some of its weights.
    """
    if ranks.world_size() == 1:
        return net
    if norm == "batch":
        raise ValueError(BATCH_NORM_REFUSED.format(f'norm="batch" on {ranks.world_size()} ranks'))
    net = sync_batch_norm.convert(unwrap(net))
    for tensor in itertools.chain(net.parameters(), net.buffers()):
        dist.broadcast(tensor.detach(), 0)
    if not any(p.requires_grad for p in net.parameters()):
        return net
    wrapped = Wrapper(net, gradient_as_bucket_view=True, find_unused_parameters=find_unused)
    wrapped.broadcast_buffers = False  # D runs twice before one backward, which needs the old ones
    if wrapped.device.type == "cpu":  # else the first backward changes the order of gloo's sums
        wrapped.reducer._push_all_rebuilt_params()
        wrapped.reducer._rebuild_buckets()
    return wrapped


def unwrap(net: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel or nn.DataParallel; any other one itself."""
    return net.module if isinstance(net, (DistributedDataParallel, nn.DataParallel)) else net


@contextmanager
def unsynchronised(nets: Iterable[nn.Module]) -> Iterator[None]:
    """Accumulate gradients of these networks per rank; the next backward after it averages them."""
    with ExitStack() as stack:
        for net in nets:
            if isinstance(net, DistributedDataParallel):
                stack.enter_context(net.no_sync())
        yield


def check_wrapped(nets: Iterable[nn.Module], optimizers: Iterable[Optimizer]) -> None:
    """UserError if an optimizer has weights of none of these: each rank would train its own."""
    wrapped = {id(weight) for net in nets for weight in net.parameters()}
    trained = (w for o in optimizers for group in o.param_groups for w in group["params"])
    shapes = [str(list(weight.shape)) for weight in trained if id(weight) not in wrapped]
    if shapes and dist.is_initialized():
        raise UserError(
            f"an optimizer has weights (of shape {', '.join(shapes[:4])}) of no network in "
            "`model_names`, so each rank would train its own; add it there, or use one rank"
        )


def check_ddp_consistency(nets: Mapping[str, nn.Module]) -> None:
    """UserError unless the ranks still train the same weights, bit for bit.

    DistributedDataParallel averages the gradients of one backward per forward; those of a second
    one it only adds, on each rank its own.
    """
    for name, net in nets.items() if dist.is_initialized() else ():
        sums = [p.detach().double().sum() for p in net.parameters()]
        if not sums:
            continue
        least, most = torch.stack(sums), torch.stack(sums)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        if not torch.equal(least.nan_to_num(), most.nan_to_num()):
            raise UserError(
                f"the ranks train different weights in network {name}: add up the losses of a step "
                "and call backward() once, and leave no parameter frozen when training starts"
            )
