"""What kind of images a dataset holds, found in a sample of its files before anything is built.

Where the range of the values is unknown, the start is refused here. What is found is saved with a
run, in image_kinds.json: testing maps its inputs in the same way, and writes what the model was
trained to make.
"""

import json
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.base_dataset import BaseDataset, input_side
from data.image_io import Header, read_header, read_image, split_page
from data.image_reader import FULL_RANGE, Range, Side
from data.transforms import resized_size
from util import checkpoint
from util.distributed import print0
from util.errors import UserError, one_line

LOOKED_AT = 32  # files of each folder: their headers, and the pixels of those that need a range
VALUES = 1 << 16  # of each file, for what pages show
DARK = 8  # 16-bit images that use less than this part of their range are something else
NAME = "image_kinds.json"


@dataclass(frozen=True)
class Kind:
    """The images of A or of B: the type of their values, what of them is [-1, 1], their files.

    `shown` is the part of [-1, 1] that pages stretch from black to white; `suffix` that of most
    files, "" if there are none.
    """

    dtype: str = "uint8"
    low: float = 0.0
    high: float = 255.0
    suffix: str = ""
    shown: Range = (-1.0, 1.0)

    @property
    def full_range(self) -> bool:
        """Whether the range is all that the type can hold, and needs no option."""
        return FULL_RANGE.get(self.dtype) == (self.low, self.high)

    def values(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] as values of this kind, in its type, rounded where it is whole."""
        dtype = np.dtype(self.dtype)
        images = images.detach()
        if dtype != np.uint8:  # few devices know the other types
            images = images.cpu()
        exact = images.double() if dtype.itemsize >= 4 else images.float()
        values = (exact.nan_to_num().clamp(-1, 1) + 1) / 2 * (self.high - self.low) + self.low
        if dtype.kind in "iu":  # a range may be wider than the type
            limits = np.iinfo(dtype)
            most = float(limits.max)  # of 64 bits this is one too many
            most = most if dtype.itemsize < 8 else np.nextafter(most, 0)
            values = values.round().clamp(limits.min, most)
        return values.to(getattr(torch, self.dtype))


Kinds = Mapping[str, Kind]  # by side, "A" or "B"


def find_kinds(dataset: BaseDataset, trained: Kinds) -> dict[str, Kind]:
    """The kinds of a dataset's images; UserError if it is not known what their values mean.

    Prints a line for what is dropped or clipped. A dataset without `to_cache` has none. `trained`
    are those that the model was trained on, in testing.
    """
    found: dict[str, Kind] = {}
    problems: list[str] = []
    for reader, paths in dataset.to_cache():
        sample = evenly_spaced(sorted(set(paths)), LOOKED_AT)
        headers = {path: header for path in sample if (header := _header(path))}
        for side in reader.sides:
            looked = Sample(side, headers)
            problems += looked.problems(side.name in trained)
            for line in looked.remarks():
                print0(line)
            if headers:
                found[side.name] = looked.kind()
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return found


def evenly_spaced(paths: Sequence[str], most: int) -> list[str]:
    """At most so many of the paths, from the first to the last."""
    if len(paths) <= most:
        return list(paths)
    return [paths[i * (len(paths) - 1) // (most - 1)] for i in range(most)]


def _header(path: str) -> Header | None:
    """What a file says of itself; None if it cannot be read, as training will say with its name."""
    try:
        return read_header(path)
    except UserError:
        return None


class Sample:
    """The headers of some files of A or B, and the values of those that are not 8-bit images."""

    def __init__(self, side: Side, headers: Mapping[str, Header]) -> None:
        self.side, self.headers = side, headers
        self.types = Counter(header.dtype.name for header in headers.values())
        self.deep = [path for path, header in headers.items() if header.dtype != np.uint8]
        self.files = f"{side.name}: {len(headers)} files looked at"
        parts = [_part(path) for path in self.deep]
        self.extremes = [part[:2] for part in parts if part]
        self.some = np.concatenate([part[2] for part in parts if part] or [np.zeros(0)])

    @property
    def seen(self) -> Range:
        """The least and the greatest value."""
        lows, highs = zip(*self.extremes, strict=True)
        return min(lows), max(highs)

    def problems(self, trained: bool) -> list[str]:
        """Why it is not known which values are black and white."""
        if self.side.value_range or not self.extremes:
            return []
        flag = self.side.range_flag
        low, high = self.seen
        unknown = sorted(self.types.keys() - FULL_RANGE.keys())
        if unknown:
            return [
                f"{self.files}, with {' and '.join(unknown)} values from {low:.9g} to {high:.9g}: "
                f"say which of them become black and white: {flag} {low:.9g} {high:.9g}, or wider"
            ]
        if high < 65536 / DARK and not trained:
            most = 2 ** max(1, int(high).bit_length()) - 1
            return [
                f"{self.files}, with uint16 values from {low:.9g} to {high:.9g} of 65535, nearly "
                f"black: give their range, as {flag} 0 {most}, or {flag} 0 65535 if they are dark"
            ]
        return []

    def remarks(self) -> list[str]:
        """What the networks will not see, as lines to print."""
        lines = []
        count = sum(
            header.alpha and header.channels != self.side.channels
            for header in self.headers.values()
        )
        if count:
            lines.append(
                f"{self.files}, {count} with transparency, which is dropped: what it hides is shown"
            )
        if self.side.value_range and self.extremes:
            (low, high), (least, most) = self.side.value_range, self.seen
            if least < low or most > high:
                lines.append(
                    f"{self.files}, with values from {least:.9g} to {most:.9g}; those outside of "
                    f"{low:.9g} to {high:.9g} (--value_range) are clipped"
                )
        return lines

    def kind(self) -> Kind:
        """What the images are; where their types differ, the widest, which holds the others."""
        dtype = max(self.types, key=lambda name: (np.dtype(name).itemsize, self.types[name]))
        low, high = self.side.value_range or FULL_RANGE.get(dtype, (0.0, 255.0))
        suffixes = Counter(Path(split_page(path)[0]).suffix.lower() for path in self.headers)
        shown = (-1.0, 1.0)
        if len(self.some):
            ends = np.percentile(self.some, (1, 99))
            a, b = np.clip((ends - low) * (2 / (high - low)) - 1, -1, 1).tolist()
            shown = (a, b) if b > a else shown
        return Kind(dtype, low, high, suffixes.most_common(1)[0][0], shown)


def mention_scaling(dataset: BaseDataset) -> None:
    """Print a line if --preprocess makes the images of a test smaller by more than 2."""
    for _, paths in dataset.to_cache():
        headers = filter(None, map(_header, evenly_spaced(sorted(set(paths)), LOOKED_AT)))
        width, height = max((header.size for header in headers), default=(1, 1))
        new_width, new_height = resized_size(dataset.opt, (width, height))
        if min(width / new_width, height / new_height) > 2:
            print0(
                f"images of up to {width}x{height} are scaled down to {new_width}x{new_height}, "
                "the size of the training; --preprocess none keeps theirs"
            )
            return


def _part(path: str) -> tuple[float, float, np.ndarray] | None:
    """The least and the greatest value of an image, and some of its values; None if it has none."""
    try:
        values = np.asarray(read_image(path))
    except UserError:
        return None
    flat = values.reshape(-1)[:: max(1, values.size // VALUES)]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    finite = flat[np.isfinite(flat)].astype(np.float64)
    return (low, high, finite) if np.isfinite([low, high]).all() else None


def side_of(visual: str, opt: Namespace) -> str:
    """The side of the dataset, "A" or "B", that a visual looks like.

    Models call their images real_A, fake_B, rec_A and so on, A being their input; --model test has
    real and fake. Under any other name it is taken for an output.
    """
    like_input = visual == "real" or visual.rpartition("_")[2] == "A"
    return "A" if like_input == (input_side(opt) == "A") else "B"


# --- with a run


def save_kinds(kinds: Kinds, folder: Path) -> None:
    """Write the kinds beside the checkpoints."""
    text = json.dumps({side: asdict(kind) for side, kind in sorted(kinds.items())}, indent=1)
    checkpoint.write_text(folder / NAME, text + "\n")


def saved_kinds(folder: Path) -> dict[str, Kind]:
    """The kinds that training saved in `folder`; none if it did not. UserError if damaged."""
    path = folder / NAME
    try:
        with open(path, encoding="utf-8") as file:
            saved = json.loads(file.read(1 << 16))
        return {str(side): _checked(values) for side, values in saved.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{one_line(path)} cannot be used ({one_line(error)}); remove it, and give "
            "--value_range as in training if it was given there"
        ) from None


def _checked(values: dict[str, Any]) -> Kind:
    kind = Kind(**{**values, "shown": tuple(map(float, values["shown"]))})
    numbers = np.array([kind.low, kind.high, *kind.shown], dtype=np.float64)
    if np.dtype(kind.dtype).kind not in "iuf" or not np.isfinite(numbers).all():
        raise ValueError(f"{kind} is no kind of image")
    if kind.low >= kind.high or not isinstance(kind.suffix, str) or len(kind.shown) != 2:
        raise ValueError(f"{kind} is no kind of image")
    return kind
