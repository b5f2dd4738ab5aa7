"""Weights & Biases, for those who ask for it with --use_wandb."""

import argparse
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from util.errors import UserError, one_line

LOG = logging.getLogger("image_translation")


class WandbLog:
    """Sends losses and images to a run named after the experiment; best effort once it runs.

    Args:
        opt: reads wandb_project_name and name; all of it becomes the run's configuration.

    Raises:
        UserError: wandb is not installed, or it refuses to start.
    """

    def __init__(self, opt: argparse.Namespace):
        """Start the run."""
        config = {key: str(value) for key, value in vars(opt).items()}
        try:
            import wandb

            self.run = wandb.init(project=opt.wandb_project_name, name=opt.name, config=config)
        except ImportError:
            raise UserError("--use_wandb: wandb is not installed; pip install wandb") from None
        except Exception as error:  # its own errors, of many kinds: no login, no network, …
            raise UserError(
                f"--use_wandb: wandb did not start ({error}); run 'wandb login', or set "
                "WANDB_MODE=offline to keep the logs here"
            ) from None
        self._image, self._failed = wandb.Image, False

    def add_losses(self, total_iters: int, losses: Mapping[str, float]) -> None:
        """Log losses at a number of images seen."""
        self._log({**losses, "total_iters": total_iters})

    def add_visuals(self, total_iters: int, visuals: Mapping[str, np.ndarray]) -> None:
        """Log images, uint8 (H, W, 3)."""
        images = {name: self._image(image) for name, image in visuals.items()}
        self._log({**images, "total_iters": total_iters})

    def _log(self, values: dict[str, Any]) -> None:
        try:
            self.run.log(values)
        except Exception as error:
            if not self._failed:
                LOG.warning("wandb was not updated (%s); the run continues", one_line(error))
            self._failed = True

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()
