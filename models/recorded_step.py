"""A step of training as one CUDA graph: Python starts the step, not each of its kernels.

At batch 1 a GPU is faster than Python can start kernels (docs/performance.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from util import distributed, image_pool
from util.image_pool import ImagePool

WARM_UPS = 3  # cuDNN chooses its algorithms in them, and --compile compiles


def missing(model: Any, optimizers: Sequence[Optimizer]) -> list[str]:
    """What a step of a model lacks to be recorded; empty if it can be."""
    opt = model.opt
    needs = {
        "a model whose class says records_step = True": vars(type(model)).get("records_step"),
        "images of one size (--preprocess with a crop)": "crop" in opt.preprocess,
        "one process": distributed.world_size() == 1,
        "--accumulate 1": opt.accumulate == 1,
        "no --checkpoint_activations": not opt.checkpoint_activations,
        "no gradient penalty (--gan_mode wgangp)": opt.gan_mode != "wgangp",
        "fused Adam": all(group.get("fused") for o in optimizers for group in o.param_groups),
    }
    return [need for need, met in needs.items() if not met]


class RecordedStep:
    """The steps of a model on CUDA: the first are made as usual, one is recorded, then replayed.

    A graph reads and writes the same memory each time. So what changes between steps is copied
    there first: the batch, what the image pools do, the learning rates. A batch with fewer images
    takes a step as usual, and with the first image of another size all do.
    """

    def __init__(self, model: Any, optimizers: Sequence[Optimizer]):
        self.model, self.optimizers, self.made, self.sizes_vary = model, optimizers, 0, False
        self.stream = torch.cuda.Stream(model.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch: dict[str, Tensor] = {}
        self.pools: list[ImagePool] = []
        self.found: dict[str, Any] = {}  # attributes of the model that a replay sets
        self.loss_names: list[str] = []
        self.losses = torch.zeros(0)
        self.rates = [torch.zeros((), device=model.device) for _ in self._groups()]

    def __call__(self, batch: Mapping[str, Any]) -> None:
        """Make one step on a batch."""
        tensors = {key: value for key, value in batch.items() if isinstance(value, Tensor)}
        if self.graph and any(v.shape[1:] != self.batch[k].shape[1:] for k, v in tensors.items()):
            self._give_up()
        whole = all(v.shape[:1] == (self.model.opt.batch_size,) for v in tensors.values())
        with self._rates_on_device():
            if self.made >= WARM_UPS and whole and not self.sizes_vary:
                if self.graph is None:
                    self._record(batch, tensors)
                self._replay(tensors)
                self.model.set_input(batch)  # for image_paths
            else:
                self._make(batch)
        self.made += 1

    def _groups(self) -> list[dict[str, Any]]:
        """Those of now: a state that is loaded brings others."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Within this block the optimizers read learning rates that a replay can change.

        Outside of it the rates are numbers, as schedulers and the training state know them.
        """
        groups = self._groups()
        rates = [group["lr"] for group in groups]
        for group, tensor, rate in zip(groups, self.rates, rates, strict=True):
            group.update(lr=tensor.fill_(rate), capturable=True)
        try:
            yield
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group.update(lr=rate, capturable=False)

    def _make(self, batch: Mapping[str, Any]) -> None:
        """A step as usual, on the stream of the recording: autograd remembers the stream."""
        current = torch.cuda.current_stream(self.model.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            self.model.set_input(batch)
            self.model.make_step()
        current.wait_stream(self.stream)

    def _record(self, batch: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Record the step, which computes nothing yet."""
        model, graph = self.model, torch.cuda.CUDAGraph()
        before = dict(vars(model))
        self.batch = {key: value.to(model.device, copy=True) for key, value in tensors.items()}
        for pool in model._all(ImagePool):
            pool.fix(model.opt.batch_size, model.device)
        with (
            image_pool.recording() as self.pools,
            # other threads, such as the loader's, may allocate memory meanwhile
            torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"),
        ):
            model.set_input({**batch, **self.batch})
            model.make_step()
            losses = {k: v for k, v in model.losses_so_far().items() if isinstance(v, Tensor)}
            self.loss_names = list(losses)
            self.losses = torch.stack([loss.detach() for loss in losses.values()])
        self.graph = graph
        self.found = {k: v for k, v in vars(model).items() if v is not before.get(k)}

    def _give_up(self) -> None:
        distributed.print0("images have several sizes: steps are not recorded any more")
        self.graph, self.found, self.batch, self.sizes_vary = None, {}, {}, True
        for pool in self.pools:
            pool.release()

    def _replay(self, tensors: Mapping[str, Tensor]) -> None:
        assert self.graph is not None
        for key, value in tensors.items():
            self.batch[key].copy_(value, non_blocking=True)
        for pool in self.pools:
            pool.prepare()
        self.graph.replay()
        vars(self.model).update(self.found)
        # the next step overwrites them, and is under way when these are looked at
        for name, loss in zip(self.loss_names, self.losses.clone(), strict=True):
            setattr(self.model, f"loss_{name}", loss)
