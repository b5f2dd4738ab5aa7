"""`--cache ram`: the images of a dataset, decoded and resized once, in one memory-mapped file.

The file holds the pixels before anything random is done to them, of 8 bits or float32. The
operating system keeps it in memory, one copy for all ranks and workers, and later runs find it
again. It is in {checkpoints_dir}/.image_cache, and may be deleted while no run uses it.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import torch
from PIL import Image
from tqdm import tqdm

from data.base_dataset import BaseDataset
from data.image_reader import ImageReader
from data.loader import available_cores
from data.transforms import AnyImage, image_size
from util import distributed
from util.errors import UserError
from util.files import atomic_write, explain_write_errors, remove_unfinished

REMEDY = "choose another --checkpoints_dir, or leave --cache ram out"
STALE_AFTER = 3600  # seconds after which an unfinished file is left over
File = tuple[ImageReader, str]  # and a path that it reads


class ImageCache:
    """A cache file: the pixels, (start, width, height, channels, bytes of a value), a digest.

    OSError or ValueError if it is not there, or is not the one of `count` images and this digest.
    """

    def __init__(self, path: Path, digest: bytes, count: int) -> None:
        self.arguments = path, digest, count
        self.bytes = np.asarray(np.memmap(path, np.uint8, "r"))
        *_, index, end = np.split(self.bytes, [-40 * count - len(digest), -len(digest)])
        if end.tobytes() != digest:
            raise ValueError(f"{path} was made of other images, or in another way")
        self.index = index.view(np.int64).reshape(count, 5)

    def __reduce__(self) -> tuple:  # a worker that was not forked maps the file again
        return ImageCache, self.arguments

    def image(self, number: int) -> AnyImage:
        """Image `number`, in the order in which they were put in, as the reader gave it."""
        start, width, height, channels, value = self.index[number].tolist()
        mode, size = "L" if channels == 1 else "RGB", width * height * channels * value
        pixels = self.bytes[start : start + size]
        if value > 1:
            return torch.frombuffer(bytearray(pixels), dtype=torch.float32).view(
                channels, height, width
            )
        return Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)


def fill(dataset: BaseDataset) -> None:
    """Have the readers of a dataset take their images from a cache file, made here if need be.

    All ranks call it, with the same dataset; the first of each machine writes.
    """
    files = list(
        dict.fromkeys((read, path) for read, paths in dataset.to_cache() for path in paths)
    )
    path, digest = identity(dataset, files)
    count = sum(len(reader.sides) for reader, _ in files)
    if distributed.local_rank() == 0:
        try:
            ImageCache(path, digest, count)
        except (OSError, ValueError):
            write(path, digest, files)
    distributed.barrier()
    cache, number = ImageCache(path, digest, count), 0
    for reader, file in files:
        reader.cached, reader.places[file] = cache.image, number
        number += len(reader.sides)
    distributed.print0(f"--cache ram: {count} images, {size_text(len(cache.bytes))}, are in {path}")


def identity(dataset: BaseDataset, files: Sequence[File]) -> tuple[Path, bytes]:
    """The cache file, one for each way to prepare a dataset, and a digest of its images and PIL."""
    root = os.path.abspath(dataset.root)
    ways = [reader.way for reader, _ in dataset.to_cache()]
    key = hashlib.blake2b(repr((root, type(dataset).__name__, ways)).encode(), digest_size=6)
    name = f"{os.path.basename(root)}-{dataset.opt.phase}-{key.hexdigest()}"
    digest = hashlib.blake2b(PIL.__version__.encode(), digest_size=16)
    for reader, path in files:
        stat = os.stat(path) if os.path.exists(path) else None  # reading it will say what is wrong
        stamp = stat and (stat.st_size, stat.st_mtime_ns)
        digest.update(repr((reader.way, os.path.abspath(path), stamp)).encode())
    return Path(dataset.opt.checkpoints_dir) / ".image_cache" / name, digest.digest()


def write(path: Path, digest: bytes, files: Sequence[File]) -> None:
    """Write a cache file, under a name of its own until it is whole: other runs may do the same."""
    with explain_write_errors(path, REMEDY):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, older_than=STALE_AFTER)
        with atomic_write(path, durable=True) as file:
            write_images(file, files, path.parent)
            file.write(digest)


def write_images(file: BinaryIO, files: Sequence[File], folder: Path) -> None:
    """Write the pixels of all files and their index; UserError if `folder` has no room for them."""
    index, end = [], 0
    hidden = None if distributed.is_main() else True  # None: where there is no terminal
    bar = tqdm(read_all(files), "reading", len(files), unit="file", disable=hidden, leave=False)
    for done, images in enumerate(bar):
        if done % 16 == 1:  # judge by those written so far
            rest, free = end // done * (len(files) - done), shutil.disk_usage(folder).free
            if rest > free:
                raise UserError(
                    f"--cache ram: {len(files)} files take {size_text(end + rest)} in {folder}, "
                    f"and {size_text(free)} are free there; free some space, {REMEDY}"
                )
        for image in images:
            floats = isinstance(image, torch.Tensor)
            channels, value = (len(image), 4) if floats else (len(image.getbands()), 1)
            index.append((end, *image_size(image), channels, value))
            end += file.write(image.numpy().tobytes() if floats else image.tobytes())
    file.write(np.array(index, np.int64).tobytes())


def read_all(files: Sequence[File]) -> Iterator[tuple[AnyImage, ...]]:
    """Yield the images of each file, read by a thread per core (PIL works outside of the GIL)."""
    threads = available_cores()
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(files), 4 * threads):  # or images not yet written fill the memory
            part = files[first : first + 4 * threads]
            yield from pool.map(lambda file: file[0].read(file[1]), part)


def size_text(size: int) -> str:
    """A size as people write it: 3.2 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
