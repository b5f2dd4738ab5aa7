"""A dataset of somebody's own: what its files are only it knows, so each sample is asked for."""

import os
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

import models
from data import find_dataset_using_name
from data.base_dataset import BaseDataset, channels
from data.image_folder import is_image_file
from data.loader import seeded
from scripts.dataset_check.findings import Finding
from scripts.dataset_check.listing import phases
from scripts.dataset_check.sizes import Size, network_misfit
from util.errors import UserError


class SeenSample(NamedTuple):
    """What stays of a sample after reading it."""

    findings: list[Finding]
    sizes: dict[str, Size] = {}  # {side: (width, height)} after preprocessing
    paths: list[str] = []  # the image files that it is from


class SampleReader:
    """Called with (phase, index), it reads one sample."""

    def __init__(self, opt: Namespace) -> None:
        """Build the dataset of every phase that there is.

        Raises:
            UserError: that of --phase cannot be built.
        """
        self.opt = opt
        self.needs = models.find_model_using_name(opt.model).needs
        found = {phase: build(opt, phase) for phase in phases(opt)}
        self.datasets = {phase: dataset for phase, dataset in found.items() if dataset is not None}

    def samples(self) -> list[tuple[str, int]]:
        """All there is to read."""
        most = self.opt.max_dataset_size
        return [
            (phase, index)
            for phase, dataset in self.datasets.items()
            for index in range(int(min(most, len(dataset))))
        ]

    def name(self, sample: tuple[str, int]) -> str:
        """What to call a sample whose files are not known."""
        return os.path.join(self.opt.dataroot, "{}: sample {}".format(*sample))

    def __call__(self, sample: tuple[str, int]) -> SeenSample:
        """Read a sample with the random numbers of the first epoch."""
        phase, index = sample
        name = self.name(sample)
        with seeded(self.opt.seed, 0, index):
            try:
                found = self.datasets[phase][index]
            except UserError as error:
                return SeenSample([Finding("cannot be read", name, str(error))])
            except Exception as error:  # it is not our code, and the others are still to be read
                problem = f"data/{self.opt.dataset_mode}_dataset.py fails: {type(error).__name__}"
                return SeenSample([Finding(problem, name, str(error))])
        if not isinstance(found, dict):
            remedy = "return {'A': tensor, 'A_paths': str, …}"
            return SeenSample([Finding(f"a sample is a {type(found).__name__}", name, remedy)])
        return self.judge(found, phase, name)

    def judge(self, sample: dict[str, Any], phase: str, name: str) -> SeenSample:
        """Whether the sample is what a model can take."""
        paths = [sample.get(f"{side}_paths") for side in self.needs or "AB"]
        paths = [path for path in paths if isinstance(path, str)]
        findings, sizes = [], {}
        for side in self.needs:
            where = sample.get(f"{side}_paths")
            where = where if isinstance(where, str) else name
            trouble = self.wrong(side, sample.get(side), phase)
            if trouble:
                findings.append(Finding(f"{side} {trouble[0]}", where, trouble[1]))
            if is_picture(sample.get(side)):
                sizes[side] = sample[side].shape[2], sample[side].shape[1]
        return SeenSample(findings, sizes, [p for p in paths if is_image_file(p)])

    def wrong(self, side: str, image: Any, phase: str) -> tuple[str, str] | None:
        """(problem, remedy) of one side of a sample."""
        file = f"data/{self.opt.dataset_mode}_dataset.py"
        if not is_picture(image):
            return "is no tensor (channels, height, width)", f"mend {file}"
        count = dict(zip("AB", channels(self.opt), strict=True)).get(side, len(image))
        if len(image) != count:
            return (
                f"has {len(image)} channels",
                f"{count} are expected: see --input_nc, --output_nc",
            )
        if not image.isfinite().all() or image.abs().max() > 1.001:
            return "is not in [-1, 1]", f"mend {file}"
        size = image.shape[2], image.shape[1]
        return network_misfit(self.opt, size, self.opt.isTrain and phase == self.opt.phase)


def is_picture(image: Any) -> bool:
    """Whether it is a tensor (C, H, W) with something in it."""
    return isinstance(image, torch.Tensor) and image.dim() == 3 and image.numel() > 0


def build(opt: Namespace, phase: str) -> BaseDataset | None:
    """The dataset of one phase; None if it is not the one asked for, and is not there."""
    kind = find_dataset_using_name(opt.dataset_mode)
    try:
        return kind(Namespace(**{**vars(opt), "phase": phase}))
    except Exception:  # how a dataset says that it has no such part is up to its author
        if phase == opt.phase:
            raise
        return None


def batches_of(
    opt: Namespace, seen: list[tuple[tuple[str, int], SeenSample]], reader: SampleReader
) -> Iterator[dict[str, Size]]:
    """For each side, {path: size after preprocessing} of what is trained on."""
    for side in reader.needs:
        yield {
            (result.paths or [reader.name(sample)])[0]: result.sizes[side]
            for sample, result in seen
            if sample[0] == opt.phase and side in result.sizes
        }
