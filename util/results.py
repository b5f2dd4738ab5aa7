"""The results of a test on disk: one picture per image and visual, and the page."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from util.pages import ResultsPage
from util.util import save_image, tensor2im
from util.wandb_log import WandbLog


class Results:
    """Writes `images/<stem>_<visual>.png` and `index.html`; use it in a `with`.

    Args:
        opt: reads name, phase, epoch, display_winsize, aspect_ratio and use_wandb.
        folder: where to.
    """

    def __init__(self, opt: argparse.Namespace, folder: Path):
        """Open the page."""
        self.folder, self.aspect_ratio = Path(folder), opt.aspect_ratio
        self.stems: set[str] = set()
        self._closing = ExitStack()
        self.wandb = WandbLog(opt) if opt.use_wandb else None
        if self.wandb:
            self._closing.callback(self.wandb.close)
        title = f"{opt.name}, {opt.phase}, epoch {opt.epoch}"
        self.page = self._closing.enter_context(ResultsPage(folder, title, opt.display_winsize))

    def __enter__(self) -> "Results":
        """The results themselves."""
        return self

    def __exit__(self, *exception: object) -> bool | None:
        """Finish the page, unless an exception is on its way."""
        return self._closing.__exit__(*exception)

    def add(self, paths: Sequence[str], visuals: Mapping[str, Tensor]) -> None:
        """Write the visuals of one tested image.

        Args:
            paths: where the image comes from; its first is the row's name.
            visuals: name to (1, C, H, W) in [-1, 1].
        """
        path = Path(paths[0])
        stem = self._unused(path.stem)
        pictures = {name: tensor2im(image) for name, image in visuals.items()}
        files = {name: f"{stem}_{name}.png" for name in pictures}
        for name, file in files.items():
            save_image(pictures[name], str(self.folder / "images" / file), self.aspect_ratio)
        self.page.add(stem, files)
        if self.wandb:
            self.wandb.add_visuals(len(self.stems), pictures)

    def _unused(self, stem: str) -> str:
        """A stem that no earlier image has: a folder may hold 1.jpg and 1.png, or sub/1.jpg."""
        numbered = (f"{stem}_{number}" for number in range(2, len(self.stems) + 3))
        free = next(name for name in (stem, *numbered) if name not in self.stems)
        self.stems.add(free)
        return free
