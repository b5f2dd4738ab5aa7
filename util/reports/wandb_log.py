"""Weights & Biases, for those who ask for it with --use_wandb."""

import argparse
from collections.abc import Mapping

import numpy as np

from util.errors import UserError


class WandbLog:
    """Sends losses and images to a run named after the experiment.

    Args:
        opt: reads wandb_project_name and name; all of it becomes the run's configuration.

    Raises:
        UserError: wandb is not installed, or it refuses to start.
    """

    def __init__(self, opt: argparse.Namespace):
        """Start the run."""
        try:
            import wandb
        except ImportError:
            raise UserError(
                "--use_wandb needs wandb, which is not here: pip install wandb"
            ) from None
        self._wandb = wandb
        try:
            config = {key: str(value) for key, value in vars(opt).items()}
            self.run = wandb.init(project=opt.wandb_project_name, name=opt.name, config=config)
        except Exception as error:  # its own errors, of many kinds: no login, no network, …
            raise UserError(
                f"--use_wandb: wandb did not start ({error}); run 'wandb login', or set "
                "WANDB_MODE=offline to keep the logs here"
            ) from None

    def add_losses(self, total_iters: int, losses: Mapping[str, float]) -> None:
        """Log losses at a number of images seen."""
        self.run.log({**losses, "total_iters": total_iters})

    def add_visuals(self, total_iters: int, visuals: Mapping[str, np.ndarray]) -> None:
        """Log images, uint8 (H, W, 3)."""
        images = {name: self._wandb.Image(image) for name, image in visuals.items()}
        self.run.log({**images, "total_iters": total_iters})

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()
