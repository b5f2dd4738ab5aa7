"""The results of a test on disk: one picture per image and visual, and the page."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from util.reports.image_writer import HostCopy, PictureWriter
from util.reports.pages import ResultsPage
from util.reports.wandb_log import WandbLog
from util.util import tensor2im, to_uint8


class Results:
    """Writes `images/<stem>_<visual>.png` and `index.html`; use it in a `with`.

    Pictures are written in threads, so an error may be raised by a later `add`, or at the end of
    the block.

    Args:
        opt: reads name, phase, epoch, display_winsize, aspect_ratio and use_wandb.
        folder: where to.
    """

    def __init__(self, opt: argparse.Namespace, folder: Path):
        """Open the page."""
        self.folder = Path(folder)
        self.stems: set[str] = set()
        self._closing = ExitStack()
        self.wandb = WandbLog(opt) if opt.use_wandb else None
        if self.wandb:
            self._closing.callback(self.wandb.close)
        title = f"{opt.name}, {opt.phase}, epoch {opt.epoch}"
        self.page = self._closing.enter_context(ResultsPage(folder, title, opt.display_winsize))
        # closed before the page, which is put in place only if all pictures are on disk
        self.writer = self._closing.enter_context(PictureWriter(opt.aspect_ratio))

    def __enter__(self) -> "Results":
        """The results themselves."""
        return self

    def __exit__(self, *exception: object) -> bool | None:
        """Finish pictures and page, unless an exception is on its way."""
        return self._closing.__exit__(*exception)

    def add(self, paths: Sequence[str], visuals: Mapping[str, Any]) -> None:
        """Write the visuals of a batch of tested images.

        Args:
            paths: where the images come from; they name the rows.
            visuals: name to (N, C, H, W) in [-1, 1], N at least as many as there are paths: what
                is beyond only fills up a batch.
        """
        pictures = {name: HostCopy(_pictures(images)) for name, images in visuals.items()}
        stems = [self._unused(Path(path).stem) for path in paths]
        for name, copy in pictures.items():
            self.writer.add(copy, [self.folder / "images" / f"{s}_{name}.png" for s in stems])
        for index, stem in enumerate(stems):
            self.page.add(stem, {name: f"{stem}_{name}.png" for name in pictures})
            if self.wandb:
                shown = {name: copy.numpy()[index] for name, copy in pictures.items()}
                self.wandb.add_visuals(len(self.stems) - len(stems) + index + 1, shown)

    def _unused(self, stem: str) -> str:
        """A stem that no earlier image has: a folder may hold 1.jpg and 1.png, or sub/1.jpg."""
        numbered = (f"{stem}_{number}" for number in range(2, len(self.stems) + 3))
        free = next(name for name in (stem, *numbered) if name not in self.stems)
        self.stems.add(free)
        return free


def _pictures(images: Any) -> torch.Tensor:
    """(N, H, W, 3) uint8; people's own models may show a (C, H, W) tensor or a numpy picture."""
    if isinstance(images, torch.Tensor) and images.dim() == 4:
        return to_uint8(images)
    return torch.from_numpy(tensor2im(images))[None]
