"""In testing a generator takes images of any size: padded where it must be, in tiles if large."""

import math
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.inference.features import TILE, WIDTH, Work
from models.inference.tiling import foreign_parts, translate_in_bands, translate_in_tiles
from models.networks.generators import ResnetGenerator, UnetGenerator
from util.distributed import print0

# Bytes of memory that a whole forward pass takes for each pixel and channel of the first layer, in
# float32. test.py takes, with 64 channels, 1,100 to 1,200 a pixel (a ResNet) and 680 to 890 besides
# its first 0.7 GB, freed blocks that stay included. From 1536x1536 up, on a CPU:
# `benchmarks/infer.py --large --tile 0 --sizes 1536x1536 1800x1400 2560x2048`
BYTES = {ResnetGenerator: 19.0, UnetGenerator: 14.0}
PART = 0.5  # of the available memory that one pass may take


def take_any_size(
    nets: Iterable[nn.Module], tile: int | None, crop_size: int, folder: Path | None = None
) -> None:
    """Let generators give back the size that they are given, in place; memory is bounded by tiles.

    Args:
        nets: others than our own generators stay as they are, edited ones are never tiled.
        tile: tiles of about tile x tile pixels; 0: never, None: where the whole would not fit.
        crop_size: the size of the training, which tiles of a U-Net have.
        folder: where features may wait in a file.
    """
    for net in nets:
        foreign = foreign_parts(net)
        if tile and foreign:
            print0(f"--tile {tile}: translated whole, as tiles know nothing of {foreign}")
        if isinstance(net, ResnetGenerator | UnetGenerator):
            of_any_size = AnySize(net, net.forward, 0 if foreign else tile, crop_size, folder)
            net.forward = of_any_size  # type: ignore[method-assign]


@dataclass
class AnySize:
    """The forward pass of a generator, for images of any size."""

    net: ResnetGenerator | UnetGenerator
    forward: Callable[[Tensor], Tensor]
    tile: int | None
    crop_size: int
    folder: Path | None
    told: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """(N, input_nc, H, W) to (N, output_nc, H, W)."""
        if self.tile or (self.tile is None and not self.fits(x)):
            self.tell(x)
            return torch.cat([self.tiled(image) for image in x.split(1)])
        multiple = getattr(self.net, "multiple", 1)
        least = getattr(self.net, "minimum", 1)
        size = (math.ceil(max(side, least) / multiple) * multiple for side in x.shape[2:])
        return self.forward(reflected(x, *size))[..., : x.shape[2], : x.shape[3]]

    def tiled(self, image: Tensor) -> Tensor:
        """(1, input_nc, H, W) to (1, output_nc, H, W), tile by tile."""
        bar = tqdm(
            desc=f"{image.shape[3]}x{image.shape[2]}", unit="layer", leave=False,
            disable=not sys.stderr.isatty(), bar_format="{desc}: {n:.1f} {unit}s [{elapsed}]",
        )  # fmt: skip
        with bar:
            if isinstance(self.net, ResnetGenerator):
                side = self.tile or TILE
                work = Work(side * side * WIDTH, self.folder, bar)
                least = self.net.minimum
                size = (max(side, least) for side in image.shape[2:])
                result = translate_in_bands(self.net, reflected(image, *size), work)
            else:
                multiple = self.net.multiple
                side = math.ceil((self.tile or self.crop_size) / multiple) * multiple
                work = Work(folder=self.folder, bar=bar)
                size = (max(pixels, side) for pixels in image.shape[2:])
                result = translate_in_tiles(self.net, reflected(image, *size), side, work)
        return result[..., : image.shape[2], : image.shape[3]]

    def fits(self, x: Tensor) -> bool:
        """Whether the whole pass takes no more than a good part of the memory."""
        first = next(self.net.parameters())
        kind = next(kind for kind in BYTES if isinstance(self.net, kind))
        pixels = len(x) * x.shape[2] * x.shape[3]
        needed = BYTES[kind] * first.shape[0] * pixels * first.element_size() / 4
        if needed < 1 << 28:  # not worth asking
            return True
        available = available_memory(x.device)
        return available is None or needed <= PART * available

    def tell(self, x: Tensor) -> None:
        """Say once that, and why, images are translated in tiles."""
        if not self.told and self.tile is None:
            print0(
                f"an image of {x.shape[3]}x{x.shape[2]} may not fit into memory whole: it is "
                "translated in tiles (--tile 0: never)"
            )
        self.told = True


def reflected(x: Tensor, height: int, width: int) -> Tensor:
    """(N, C, H, W) continued to the right and below by reflection, as often as it takes."""
    for dim, size in ((2, height), (3, width)):
        last = x.shape[dim] - 1
        if size > last + 1:
            place = torch.arange(size, device=x.device) % max(1, 2 * last)
            x = x.index_select(dim, last - (last - place).abs() if last else place)
    return x


def available_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken; None where nobody says."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    found = []
    with suppress(OSError, ValueError, StopIteration):  # not on Linux
        with open("/proc/meminfo", encoding="ascii") as lines:
            line = next(line for line in lines if line.startswith("MemAvailable"))
        found.append(int(line.split()[1]) * 1024)
    with suppress(OSError, StopIteration):  # in a container, or a batch job
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        group = next(name for name in groups if name.startswith("0::"))
        found += left_in_groups(Path("/sys/fs/cgroup"), group.removeprefix("0::"))
    return min(found, default=None)


def left_in_groups(root: Path, group: str) -> list[int]:
    """Bytes that a cgroup (version 2) and those around it let their processes still take."""
    left = []
    inner = root / group.strip("/")
    for folder in [inner, *inner.parents[: len(inner.parts) - len(root.parts)]]:
        with suppress(OSError, ValueError):  # "max" is no number, and the outermost has no limit
            limit, taken = (int((folder / f"memory.{x}").read_text()) for x in ("max", "current"))
            statistics = dict(line.split() for line in (folder / "memory.stat").open())
            files = int(statistics.get("inactive_file", 0))  # that were read and can be forgotten
            left.append(limit - taken + files)
    return left
