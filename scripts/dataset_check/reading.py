"""Reading the samples and files of a dataset: what is wrong with each, its sizes, its digests."""

import hashlib
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from data.base_dataset import BaseDataset, channels
from data.image_io import Pixels, read_header, read_image, split_page
from data.image_reader import ImageReader, size_of
from data.seeding import preserve_rng_state, seed_all
from data.transforms import resized_size
from models.networks import DISCRIMINATORS, GENERATORS
from models.networks.sizes import size_problem
from util.errors import UserError

Size = tuple[int, int]  # width, height


@dataclass
class Seen:
    """What stays of a sample or a file after reading it."""

    phase: str
    name: str  # the path of a file
    problems: list[str] = field(default_factory=list)
    sizes: dict[str, Size] = field(default_factory=dict)  # {side: size} of a sample's tensors
    paths: list[str] = field(default_factory=list)  # the files that a sample is from
    digests: tuple[bytes, ...] = ()  # of the images in a file
    size: Size | None = None  # of the first image in a file


class Checks(Dataset[list[Seen]]):
    """Item N is the result of call N of `tasks`: a sample and the files read for it, or a file.

    Args:
        opt: what samples are judged by.
        needs: the images that the model reads.
    """

    def __init__(self, opt: Namespace, needs: tuple[str, ...]) -> None:
        self.opt, self.needs = opt, needs
        self.file_name = f"data/{opt.dataset_mode}_dataset.py"
        self.tasks: list[Callable[[], list[Seen]]] = []
        self.files: list[Seen] = []  # read by the task
        self.known: set[str] = set()  # read by tasks of this process

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, number: int) -> list[Seen]:
        self.files = []
        return self.tasks[number]()

    def watch(self, phase: str, reader: ImageReader) -> ImageReader:
        """Have each file judged that the reader decodes."""
        reader.decode = partial(self.decode, phase, reader)
        return reader

    def decode(self, phase: str, reader: ImageReader, path: str) -> tuple[Pixels, ...]:
        """In place of `reader.decode`: judge the file as well, if it is new."""
        images = ImageReader.decode(reader, path)
        if path not in self.known:
            seen = Seen(phase, path, digests=tuple(map(digest, images)), size=size_of(images[0]))
            seen.problems = [f"{path}: {text}" for text in oddities(path, reader, seen.size)]
            self.files.append(seen)
            self.known.add(path)
        return images

    def file(self, phase: str, read: Callable[[str], object], path: str) -> list[Seen]:
        """Read a file as training does."""
        try:
            read(path)
        except UserError as error:
            return [Seen(phase, path, [str(error)])]
        return self.files

    def sample(self, phase: str, dataset: BaseDataset, index: int) -> list[Seen]:
        """Read a sample with the random numbers of an epoch."""
        seen = Seen(phase, f"sample {index} of --phase {phase}")
        try:
            with preserve_rng_state():
                seed_all(self.opt.seed, 0, index)
                sample = dataset[index]
            if not isinstance(sample, dict):
                raise TypeError(f"a sample must be a dict, not a {type(sample).__name__}")
            self.judge(sample, seen)
        except UserError as error:
            seen.problems.append(str(error))
        except Exception as error:  # a plug-in's; the other samples are still to be read
            text = f"{self.file_name} fails: {type(error).__name__}: {error}"
            seen.problems.append(f"{seen.name}: {text}")
        return [seen, *self.files]

    def judge(self, sample: dict[str, Any], seen: Seen) -> None:
        """Whether the sample is what the model can take."""
        for side in self.needs:
            image, path = sample.get(side), sample.get(f"{side}_paths")
            seen.paths += [path] if isinstance(path, str) else []
            problem = self.misfit(side, image, seen.phase)
            if problem:
                where = path if isinstance(path, str) else seen.name
                seen.problems.append(f"{where}: {side} {problem}")
            else:
                seen.sizes[side] = image.shape[2], image.shape[1]

    def misfit(self, side: str, image: Any, phase: str) -> str | None:
        """Why the networks cannot take one image of a sample."""
        if not isinstance(image, torch.Tensor) or image.dim() != 3 or not image.numel():
            return f"is no tensor (channels, height, width); mend {self.file_name}"
        count = dict(zip("AB", channels(self.opt), strict=True)).get(side, len(image))
        if len(image) != count:
            return f"has {len(image)} channels, not {count}; see --input_nc and --output_nc"
        if not image.isfinite().all() or image.abs().max() > 1.001:
            return f"is not in [-1, 1]; mend {self.file_name}"
        return network_misfit(self.opt, (image.shape[2], image.shape[1]), phase)


def network_misfit(opt: Namespace, size: Size, phase: str) -> str | None:
    """Why the networks cannot take images of this size; those of a plug-in take any."""
    needs = []  # of each network: its flag, and what `size_problem` asks for
    trained = opt.isTrain and phase == opt.phase  # testing takes any size
    if trained and opt.netG in GENERATORS:
        row = GENERATORS[opt.netG]
        needs.append((f"--netG {opt.netG}", row.multiple, row.minimum))
    if trained and opt.netD in DISCRIMINATORS:
        least = DISCRIMINATORS[opt.netD].minimum(opt.n_layers_D)
        needs.append((f"--netD {opt.netD}", 1, least))
    for flag, multiple, least in needs:
        problem = size_problem(size[1], size[0], multiple, least)
        if problem:
            return f"is {named(size)}: {flag} {problem}; use --preprocess resize_and_crop"
    return None


def oddities(path: str, reader: ImageReader, size: Size) -> Iterator[str]:
    """What the networks would see otherwise than the file shows it, with the remedy.

    `size` is that of its first image.
    """
    resized, crop_size = resized_size(reader.opt, size), reader.opt.crop_size
    if "crop" in reader.opt.preprocess and min(resized) < crop_size:
        remedy = "lower it, or use --preprocess resize_and_crop"
        yield f"{named(resized)} is smaller than --crop_size {crop_size}; {remedy}"
    header = read_header(path)
    if len(reader.sides) == 2 and header.size[0] % 2:
        yield f"odd width {header.size[0]}: A and B are not equally wide; combine the two again"
    dropped = all(side.channels != header.channels for side in reader.sides)
    if header.alpha and dropped and not opaque(read_image(path)):
        yield "transparent: alpha is dropped, and what it hides is shown; flatten it"
    if header.channels == 3:
        with suppress(OSError), Image.open(split_page(path)[0]) as image:
            if image.mode == "CMYK":
                yield "CMYK, the colours of printing, read without their profile; convert it to RGB"


def opaque(image: Pixels) -> bool:
    """Whether the last channel, alpha, hides nothing."""
    alpha = np.asarray(image)[..., -1]
    return bool(alpha.min() == np.iinfo(alpha.dtype).max)


def digest(image: Pixels) -> bytes:
    """16 bytes that are equal for equal pixels."""
    pixels = np.ascontiguousarray(image)
    key = repr((pixels.shape, pixels.dtype.name)).encode()
    return hashlib.blake2b(key + pixels.tobytes(), digest_size=16).digest()


def named(size: Size) -> str:
    """640x480."""
    return f"{size[0]}x{size[1]}"
