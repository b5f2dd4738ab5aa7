"""Weights & Biases, for those who ask for it with --use_wandb."""

import argparse
import logging
from collections.abc import Mapping

import numpy as np

from util.errors import UserError, one_line

LOG = logging.getLogger("image_translation")


class WandbLog:
    """Sends losses and images to a run named after the experiment, with the options it has.

    With `run`, an id, it is one run however often it is continued. A wandb that does not start is a
    UserError; what fails later is logged once.
    """

    def __init__(self, opt: argparse.Namespace, run: str | None = None):
        import wandb

        config = {key: str(value) for key, value in vars(opt).items()}
        self._image, self._failed = wandb.Image, False
        try:
            self.run = wandb.init(
                project=opt.wandb_project_name,
                name=opt.name,
                config=config,
                id=run,
                resume="allow" if run else None,
            )
        except Exception as error:  # its own errors, of many kinds: no login, no network, …
            raise UserError(
                f"--use_wandb: wandb did not start ({error}); run 'wandb login', or set "
                "WANDB_MODE=offline to keep the logs here"
            ) from None
        self.close = self.run.finish

    def add(self, total_iters: int, values: Mapping[str, float | np.ndarray]) -> None:
        """Log losses, or images, uint8 (H, W, 3), at a number of images seen."""
        images = {k: self._image(v) for k, v in values.items() if isinstance(v, np.ndarray)}
        try:
            self.run.log({**values, **images, "total_iters": total_iters})
        except Exception as error:
            if not self._failed:
                LOG.warning("wandb was not updated (%s); the run continues", one_line(error))
            self._failed = True
