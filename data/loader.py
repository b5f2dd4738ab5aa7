"""From a dataset to batches: what each step sees depends on the seed and the epoch, nothing else.

Neither the number of workers nor how they are started, nor the number of ranks at one global
batch size, nor where a run was resumed changes a sample or its place in the epoch.
"""

import atexit
import multiprocessing
import os
import signal
import threading
import weakref
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from data import kinds
from data.base_dataset import BaseDataset
from data.image_folder import shortened
from data.sampler import EpochSampler
from data.seeding import Failure, SeededDataset
from util import distributed
from util.errors import UserError


class Loader:
    """Iterating yields the collated batches of this rank, for the epoch of `set_epoch`.

    Workers start with the first iteration and stay for all epochs. All ranks of a machine together
    have no more of them than it has processor cores. `start` is how they start: "fork", "spawn" or
    "forkserver"; None is Python's choice.
    """

    def __init__(self, dataset: BaseDataset, opt: Namespace, start: str | None = None) -> None:
        if not len(dataset):
            raise UserError(f"--dataset_mode {opt.dataset_mode} has no images in {opt.dataroot}")
        self.dataset = dataset
        self.kinds: dict[
            str, kinds.Kind
        ] = {}  # of the images, by side; `create_dataset` finds them
        self.trained_kinds: dict[
            str, kinds.Kind
        ] = {}  # in testing: of those that the model has seen
        self.num_threads = min(opt.num_threads, share_of_cores())
        self.sampler = EpochSampler(
            len(dataset),
            opt.batch_size,
            seed=opt.seed,
            shuffle=not opt.serial_batches,
            limit=opt.max_dataset_size,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
        self.batches = DataLoader(
            SeededDataset(dataset, opt.seed),
            batch_sampler=self.sampler,
            num_workers=self.num_threads,
            persistent_workers=self.num_threads > 0,
            multiprocessing_context=start if self.num_threads > 0 else None,
            pin_memory=opt.device.type == "cuda",
            collate_fn=collate,
            worker_init_fn=ignore_signals,
            generator=torch.Generator(),  # or each epoch would draw from the training's generator
        )
        atexit.register(_end_workers, weakref.ref(self.batches))

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch of the next iteration, which with the seed decides all that is random.

        The first `start` images (over all ranks), which a resumed run has seen, are left out.
        """
        self.sampler.epoch, self.sampler.start = epoch, start

    def __len__(self) -> int:
        """The number of images in an epoch, over all ranks, as in the original."""
        return self.sampler.images

    def __iter__(self) -> Iterator[Any]:
        """Yield batches; UserError for a bad image, unequal sizes, or a worker that was killed."""
        with explain_worker_trouble(self.num_threads):
            try:
                for batch in self._start():
                    if isinstance(batch, Failure):
                        raise UserError(batch.message)
                    yield batch
            except (RuntimeError, OSError, EOFError):  # torch may raise again while workers live
                old, self.batches._iterator = self.batches._iterator, None  # others may follow
                getattr(old, "_shutdown_workers", lambda: None)()
                raise
        self.set_epoch(self.sampler.epoch + 1)  # for loops that do not say which

    def _start(self) -> Iterator[Any]:
        """Torch's iterator. That a worker died it may tell only whom it brings batches.

        It also does when SIGCHLD comes: in the middle of a step, with weights half changed.
        """
        name = getattr(signal, "SIGCHLD", None)  # not on Windows
        before = name and (signal.getsignal(name) or signal.SIG_DFL)
        batches = iter(self.batches)
        if name and threading.current_thread() is threading.main_thread():
            signal.signal(name, before)
        return batches

    def listing(self) -> list[str]:
        """The number of samples; path in the dataset, and size, of the files as far as known."""
        root, paths = self.dataset.root, chain(*(paths for _, paths in self.dataset.to_cache()))
        sizes = ((path, os.stat(path).st_size) for path in paths if os.path.exists(path))
        files = [f"{os.path.relpath(path, root)} ({size} bytes)" for path, size in sizes]
        return [f"{len(self.dataset)} samples", *files]

    def save_kinds(self, folder: Path) -> None:
        """Write beside the checkpoints what kind of images these are."""
        kinds.save_kinds(self.kinds, folder)

    def shown(self, visual: str) -> kinds.Range:
        """The part of [-1, 1] that pages stretch from black to white in a visual of a model."""
        side = kinds.side_of(visual, self.dataset.opt)
        return self.kinds.get(side, kinds.Kind()).shown

    def waiting_advice(self, share: float) -> str | None:
        """What to try if training waited for data for much of the time; `share` is 0 to 1."""
        if share < 0.1:  # not worth a line
            return None
        cores, remedies = share_of_cores(), []
        if any(reader.cached is None for reader, _ in self.dataset.to_cache()):
            remedies.append("--cache ram decodes and resizes each image only once")
        if self.num_threads < cores:
            remedies.append(f"--num_threads {cores} loads in more processes")
        advice = ", or ".join(remedies) or "all processor cores load already; use smaller files"
        return f"training waited for data {share:.0%} of the time; {advice}"


def available_cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_cores() -> int:
    """The cores for this rank, where the ranks of its machine divide them; 1 or more."""
    return max(1, available_cores() // distributed.local_world_size())


def default_num_threads(from_memory: bool, most: int = 8) -> int:
    """How many workers load if nobody says: what is in memory comes fastest without any."""
    return 0 if from_memory else min(most, share_of_cores())


def collate(samples: list[Any]) -> Any:
    """Stack samples to a batch; a Failure among them, or sizes that differ, is a Failure."""
    if failures := [sample for sample in samples if isinstance(sample, Failure)]:
        return failures[0]
    for key in samples[0] if isinstance(samples[0], dict) else ():
        images = [(sample[key], sample.get(f"{key}_paths", "an image")) for sample in samples]
        if not all(isinstance(image, torch.Tensor) and image.dim() == 3 for image, _ in images):
            continue
        if len({image.shape[1:] for image, _ in images}) > 1:
            sizes = [f"{path} is {image.shape[2]}x{image.shape[1]}" for image, path in images]
            return Failure(
                f"the images of a batch differ in size after preprocessing: {shortened(sizes, 4)}; "
                "use --preprocess resize_and_crop, or --batch_size 1"
            )
    return default_collate(samples)


@contextmanager
def explain_worker_trouble(num_threads: int) -> Iterator[None]:
    """Turn the many ways in which torch reports a killed worker into a UserError."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        text = str(error)
        of_the_dataset = text.startswith("Caught ") and "/torch_" not in text  # a file in /dev/shm
        if not num_threads or of_the_dataset:
            raise
        reason = text.strip().rpartition("\n")[2]
        raise UserError(
            f"loading images in {num_threads} processes failed ({reason}). If none of them printed "
            "an error, memory, /dev/shm or open files ran out: use a smaller --num_threads"
        ) from error


def ignore_signals(worker: int) -> None:
    """For `worker_init_fn`: a signal to the whole job must not take the data of its last step away.

    Ctrl-C in a terminal, `scancel` and the like reach every process. The training process then
    finishes a step and ends its workers. Should it die first, torch's loop in them sees that.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _end_workers(reference: weakref.ref) -> None:
    """End all workers with the program; they do not obey the SIGTERM that Python sends later."""
    iterator = getattr(reference(), "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
    for child in multiprocessing.active_children():
        if child.daemon:  # also one that outlived its loader
            child.kill()
