"""Batches for testing: images of one size that follow each other, each treated by itself.

pix2pix tests with batch norm as in training, image by image. The statistics of a batch of one are
those of its image, so batch norm is instance norm there, and can be that in any batch.
"""

import itertools
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from util.distributed import print0

# Whose `forward` and visuals are known to treat each image by itself; a plug-in's may not.
OWN = {f"models.{m}_model" for m in "base test pix2pix cycle_gan colorization template".split()}
METHODS = ("set_input", "forward", "test", "compute_visuals")
LAYERS = ("torch.nn.modules.", "models.networks.", "models.inference.")

Batch = dict[str, Any]


def image_batches(
    model: Any, images: Iterable[Batch], size: int, compiled: bool
) -> Iterator[Batch]:
    """Batches of up to `size` images that a model tests as it would test them one by one.

    A line says where that cannot be. `images` are batches of one, and the networks of the model are
    changed in place. Compiled networks want batches of one size: copies fill up the last of a row.
    """
    nets = list(model.named_networks().values())
    obstacle = batching_obstacle(model, nets) if size > 1 else None
    if obstacle:
        print0(f"--batch_size {size} stays at 1: {obstacle}")
    if obstacle or size == 1:
        yield from images
        return
    normalize_per_image(nets)
    if any(isinstance(m, _DropoutNd) and m.training and m.p for m in _modules(nets)):
        print0(f"--batch_size {size}: other noise of dropout than one by one; --eval has none")
    for _, row in itertools.groupby(images, key=_shapes):
        while group := list(itertools.islice(row, size)):
            yield join(group, size if compiled else len(group))


def batching_obstacle(model: Any, nets: Iterable[nn.Module]) -> str | None:
    """Why images must be tested one by one, the end of a sentence; None where they need not."""
    own = {getattr(type(model), name).__module__ for name in METHODS} <= OWN
    foreign = unsupported_modules(nets) if own else type(model).__name__
    return f"{foreign} may look at all images of a batch at once" if foreign else None


def unsupported_modules(nets: Iterable[nn.Module]) -> str:
    """The layers that may mix the images of a batch, and cannot be kept from it, by class name."""
    return ", ".join(sorted({type(m).__name__ for m in _modules(nets) if not _is_supported(m)}))


def _is_supported(module: nn.Module) -> bool:
    if _mixes_images(module):
        return isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)
    return type(module).__module__.startswith(LAYERS)


def _mixes_images(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)


def _modules(nets: Iterable[nn.Module]) -> list[nn.Module]:
    return [module for net in nets for module in net.modules()]


def normalize_per_image(nets: Iterable[nn.Module]) -> None:
    """Replace batch norm that uses the statistics of a batch by those of each image, in place."""
    for parent in _modules(nets):
        for name, norm in parent.named_children():
            if isinstance(norm, _BatchNorm) and _mixes_images(norm):
                per_image = nn.InstanceNorm2d(norm.num_features, norm.eps, affine=norm.affine)
                per_image.weight, per_image.bias = norm.weight, norm.bias
                setattr(parent, name, per_image)


def _shapes(batch: Batch) -> Hashable:
    """What must be equal to batch an image with another."""
    return tuple((k, v.shape) for k, v in batch.items() if isinstance(v, Tensor))


def join(group: list[Batch], size: int) -> Batch:
    """One batch of several; tensors are filled up to `size` images, lists are not."""
    filled = [*group, *[group[-1]] * (size - len(group))]
    return {
        key: torch.cat([part[key] for part in filled])
        if isinstance(value, Tensor)
        else [item for part in group for item in part[key]]
        for key, value in group[0].items()
    }
