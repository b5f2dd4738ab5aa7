"""What test.py writes: files of the kind that the model was trained to make, named as the input."""

import os
from argparse import Namespace
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from torch import Tensor

from data.image_io import ARRAYS, can_hold, described, write_image, writing_problem
from data.kinds import Kind, Kinds, side_of
from util.distributed import print0
from util.errors import UserError

FORMATS = ("png", "jpg", "webp", "tif", "npy")
TIFF = (".tif", ".tiff")
WIDE, NARROW = Kind("uint16", 0.0, 65535.0), Kind()  # for formats that cannot hold other kinds


@dataclass(frozen=True)
class FileFormat:
    """How one of the visuals is written: the kind of its values, and the suffix of its files."""

    kind: Kind
    suffix: str

    @property
    def viewable(self) -> bool:
        """Whether a browser shows the files as they are."""
        return self.kind == NARROW and self.suffix in (".png", ".jpg", ".webp")

    def encode(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] to what the files hold, (N, H, W, C)."""
        return self.kind.values(images).movedim(1, -1).contiguous()

    def write(self, path: str, array: np.ndarray) -> None:
        """Write (H, W, C), which `encode` made."""
        write_image(path, array, "choose another --results_dir")


class Outputs:
    """The formats and names of a test's files.

    Args:
        found: the kinds of the images that are tested.
        trained: those of the training; none if it did not save them.
    """

    def __init__(self, opt: Namespace, found: Kinds, trained: Kinds) -> None:
        self.opt, self.found, self.trained = opt, found, trained
        self._formats: dict[tuple[str, int], FileFormat] = {}

    def format(self, visual: str, channels: int) -> FileFormat:
        """The format of a visual; UserError if --format cannot hold its channels."""
        key = visual, channels
        if key not in self._formats:
            self._formats[key] = self._choose(visual, channels)
        return self._formats[key]

    def _choose(self, visual: str, channels: int) -> FileFormat:
        kind = self.kind(visual)
        choose = self._as_asked if self.opt.format else self._as_trained
        return choose(visual, kind, channels)

    def _as_trained(self, visual: str, kind: Kind, channels: int) -> FileFormat:
        suffix = _usual_suffix(kind, channels)
        if problem := writing_problem(suffix, np.dtype(kind.dtype), channels):
            raise UserError(f"{visual}: {problem}")
        return FileFormat(_standard(kind), suffix)

    def _as_asked(self, visual: str, kind: Kind, channels: int) -> FileFormat:
        suffix = f".{self.opt.format}"
        for other in (_standard(kind), WIDE, NARROW):
            if can_hold(suffix, np.dtype(other.dtype), channels):
                if other.dtype != kind.dtype:
                    print0(
                        f"--format {self.opt.format}: {visual} is {kind.dtype}, {kind.low:.9g} to "
                        f"{kind.high:.9g}, and is scaled to 0 to {other.high:.0f}"
                    )
                if problem := writing_problem(suffix, np.dtype(other.dtype), channels):
                    raise UserError(f"{visual}: {problem}")
                return FileFormat(other, suffix)
        if visual.startswith("real"):
            return self._as_trained(visual, kind, channels)
        raise UserError(
            f"--format {self.opt.format} cannot hold {described(np.dtype(kind.dtype), channels)}, "
            f"as {visual} has; use --format tif or npy"
        )

    def kind(self, visual: str) -> Kind:
        """The kind of a visual; 8 bits if neither the dataset nor the training knows any."""
        side = side_of(visual, self.opt)
        first, second = self.trained, self.found
        if visual.startswith("real"):
            first, second = second, first
        return first.get(side) or second.get(side) or NARROW

    def name(self, path: str) -> str:
        """The name of an image's results: its path in the dataset without the suffix."""
        root, phase = self.opt.dataroot, self.opt.phase
        folders = [f"{phase}A", f"{phase}B", f"A/{phase}", f"B/{phase}", phase, ""]
        for folder in folders:
            start = os.path.join(root, folder, "")
            if path.startswith(start):
                name = PurePath(path[len(start) :])
                if ".." not in name.parts:
                    return str(name.with_suffix(""))
        return PurePath(path).stem


def _usual_suffix(kind: Kind, channels: int) -> str:
    """The suffix of files of a kind, like that of what the model was trained on."""
    dtype = np.dtype(kind.dtype)
    if kind.suffix in ARRAYS:
        return ".npy"
    if dtype == np.uint8 and channels in (1, 3):
        return ".png"
    if kind.suffix == ".png" and can_hold(".png", dtype, channels):
        return ".png"
    return ".tif" if kind.suffix in TIFF else ".npy"


def _standard(kind: Kind) -> Kind:
    """8 bits over their full range as `NARROW`, wherever they are from."""
    return NARROW if kind.dtype == "uint8" and kind.full_range else kind
