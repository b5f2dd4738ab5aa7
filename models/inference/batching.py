"""Batches for testing: images of one size that follow each other, without changing a picture."""

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.inference import per_image

# Whose `forward` and visuals are known to treat each image by itself; a plug-in's may not.
MODELS = ("test_model", "pix2pix_model", "cycle_gan_model", "colorization_model", "template_model")
METHODS = ("set_input", "forward", "test", "compute_visuals")
OWN = {"models.base_model", *(f"models.{name}" for name in MODELS)}

Batch = dict[str, Any]


class ImageBatches:
    """Joins images to batches that a prepared model tests as it would test them one by one.

    Args:
        model: ready to test.
        size: images in a batch, at most.
        compiled: whether its networks are compiled, and so want batches of one size: the last of
            a row is filled up with copies of its last image.
    """

    def __init__(self, model: Any, size: int, compiled: bool) -> None:
        """Prepare the networks of `model`; those of batches of one stay as they are."""
        nets = list(model.named_networks().values())
        self.objection = batching_obstacle(model, nets, compiled) if size > 1 else None
        self.size = 1 if self.objection else size
        self.plan = None
        if self.size > 1:
            per_image.separate(nets)
            self.plan = per_image.plan_dropout(nets)
        self.filled = compiled

    def of(self, images: Iterable[Batch]) -> Iterator[Batch]:
        """Join `images`, batches of one from a loader; holds no more than two batches."""
        return self._joined(images) if self.size > 1 else iter(images)

    def _joined(self, images: Iterable[Batch]) -> Iterator[Batch]:
        for shapes, row in itertools.groupby(images, key=shapes_of):
            if self.plan and shapes not in self.plan:
                self.plan.start(shapes, 1)
                yield next(row)
            while group := list(itertools.islice(row, self.size)):
                if self.plan:
                    self.plan.start(shapes, len(group))
                yield join(group, self.size if self.filled else len(group))


def batching_obstacle(model: Any, nets: Iterable[nn.Module], compiled: bool) -> str | None:
    """Why images must be tested one by one, the end of a sentence; None where they need not."""
    functions = [getattr(type(model), name) for name in METHODS]
    if not {function.__module__ for function in functions} <= OWN:
        return f"{type(model).__name__} may look at all images of a batch at once"
    foreign = per_image.unsupported_modules(nets)
    if foreign:
        return f"the networks hold {', '.join(foreign)}, which may look at all of a batch at once"
    if compiled and per_image.drop_out(nets):
        return "what a compiled dropout draws depends on the batch (--eval switches dropout off)"
    return None


def shapes_of(batch: Mapping[str, Any]) -> Hashable:
    """The shapes of the tensors of a batch by name: what must be equal to join it to another."""
    return tuple((k, v.shape) for k, v in batch.items() if isinstance(v, Tensor))


def join(group: list[Batch], size: int) -> Batch:
    """One batch of several; tensors are filled up to `size` images, lists are not."""
    filling = [group[-1]] * (size - len(group))
    return {
        key: torch.cat([part[key] for part in [*group, *filling]])
        if isinstance(value, Tensor)
        else [item for part in group for item in part[key]]
        for key, value in group[0].items()
    }
