"""What every model shares: the contract of the project, and people's own models, is here."""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from models import architecture, networks
from util import checkpoint, distributed
from util.errors import UserError


@contextmanager
def frozen(*nets: nn.Module) -> Iterator[None]:
    """Within this block the networks get no gradients, which saves computing them."""
    BaseModel.set_requires_grad(nets, False)
    try:
        yield
    finally:
        BaseModel.set_requires_grad(nets, True)


class BaseModel(ABC):
    """A model: its networks, losses and optimizers, and how one step goes.

    A subclass calls `super().__init__(opt)`, then sets

    - `loss_names`: after a step the loss NAME is `self.loss_NAME`, a scalar tensor or number;
    - `model_names`: the network NAME is `self.netNAME`, saved as `{tag}_net_NAME.pth`;
    - `visual_names`: after a step (or a test) the image NAME is `self.NAME`, (N, C, H, W) in
      [-1, 1];
    - `optimizers`: the learning rate schedule drives each of them,

    and implements `set_input`, `forward` and `optimize_parameters`. models/template_model.py is a
    worked example.
    """

    def __init__(self, opt: argparse.Namespace):
        """Remember the options; the subclass builds its networks after this."""
        self.opt = opt
        self.isTrain = opt.isTrain
        self.device = opt.device
        self.gpu_ids = opt.gpu_ids
        self.save_dir = str(checkpoint.folder(opt))
        self.loss_names: list[str] = []
        self.model_names: list[str] = []
        self.visual_names: list[str] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        self.schedulers: list[Any] = []
        self.image_paths: list[str] = []
        self.metric: float = 0.0  # what --lr_policy plateau follows
        self._generator_losses: list[Tensor] = []

    @staticmethod
    def modify_commandline_options(
        parser: argparse.ArgumentParser, is_train: bool
    ) -> argparse.ArgumentParser:
        """Add options of this model, and change defaults with `parser.set_defaults`."""
        return parser

    @staticmethod
    def check_options(opt: argparse.Namespace) -> Iterable[str]:
        """Sentences about options that cannot work with this model; none if all is well."""
        return ()

    @abstractmethod
    def set_input(self, input: Mapping[str, Any]) -> None:
        """Take a batch of the data set and move it to `self.device`."""

    @abstractmethod
    def forward(self) -> None:
        """Compute the output images; called for training and for testing."""

    @abstractmethod
    def optimize_parameters(self) -> None:
        """Compute losses and gradients and update the weights: one step of training."""

    def setup(self, opt: argparse.Namespace) -> None:
        """Make the model ready: load weights where asked for, schedules, device, ranks."""
        nets = self.named_networks()
        if not self.isTrain or opt.continue_train:
            self.load_networks(checkpoint.tag(opt))
        for name, net in nets.items():
            net.to(self.device)
            if self.isTrain:
                setattr(self, f"net{name}", distributed.wrap(net, norm=opt.norm))
        if self.isTrain:
            self.schedulers = [networks.get_scheduler(o, opt) for o in self.optimizers]
        self.print_networks(opt.verbose)

    def named_networks(self) -> Mapping[str, nn.Module]:
        """The networks by name, read-only."""
        return self._view("model_names", "net")

    def named_losses(self) -> Mapping[str, Tensor | float]:
        """The losses of the last step by name, on the device, read-only."""
        return self._view("loss_names", "loss_")

    def named_visuals(self) -> Mapping[str, Tensor]:
        """The images of the last step or test by name, read-only."""
        return self._view("visual_names", "")

    def _view(self, names: str, prefix: str) -> Mapping[str, Any]:
        """The one place where names turn into objects."""
        found = {}
        for name in getattr(self, names):
            if not hasattr(self, prefix + name):
                raise UserError(
                    f"{type(self).__name__}: {names} has {name!r}, but there is no attribute "
                    f"self.{prefix}{name}; set it, or take the name out of {names}"
                )
            found[name] = getattr(self, prefix + name)
        return MappingProxyType(found)

    def check_names(self) -> None:
        """After the first step every name must lead to something; UserError if one does not."""
        with torch.no_grad():
            self.compute_visuals()
        self.named_losses()
        self.named_visuals()

    def eval(self) -> None:
        """Put the networks into evaluation mode."""
        for net in self.named_networks().values():
            net.eval()

    def test(self) -> None:
        """Compute the output images and visuals, without gradients."""
        with torch.no_grad():
            self.forward()
            self.compute_visuals()

    def compute_visuals(self) -> None:  # noqa: B027  optional for a subclass
        """Compute images that only people look at; called before they are shown."""

    def get_image_paths(self) -> list[str]:
        """Where the images of the current batch come from."""
        return self.image_paths

    def end_step(self) -> None:
        """Note what `update_learning_rate` needs of this step; the loop calls it after each."""
        if self.opt.lr_policy == "plateau":
            self._generator_losses.append(self._generator_loss().detach())

    def update_learning_rate(self) -> None:
        """Step the schedules; called at the end of every epoch."""
        if self._generator_losses:
            total = torch.stack(self._generator_losses).mean()
            self.metric = distributed.mean({"metric": total})["metric"]
            self._generator_losses.clear()
        for scheduler in self.schedulers:
            plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            scheduler.step(*([self.metric] if plateau else []))

    def learning_rate(self) -> float:
        """The learning rate of the first optimizer, as it is now."""
        return self.optimizers[0].param_groups[0]["lr"] if self.optimizers else 0.0

    def _generator_loss(self) -> Tensor:
        """`self.loss_G` where there is one, else the sum of all losses but the discriminators'."""
        if hasattr(self, "loss_G"):
            return torch.as_tensor(self.loss_G)
        parts = [value for name, value in self.named_losses().items() if not name.startswith("D")]
        return sum((torch.as_tensor(part) for part in parts), torch.zeros(()))

    def get_current_losses(self) -> dict[str, float]:
        """The losses of the last step as numbers, averaged over ranks; waits for the device."""
        return distributed.mean(self.named_losses())

    def get_current_visuals(self) -> dict[str, Tensor]:
        """The images of the last step or test by name, (N, C, H, W) in [-1, 1]."""
        return dict(self.named_visuals())

    def save_networks(self, tag: str | int) -> None:
        """Save every network as `{tag}_net_{NAME}.pth`."""
        for name, net in self.named_networks().items():
            checkpoint.save_weights(net, checkpoint.weights_path(self.save_dir, tag, name))

    @distributed.main_only  # setup sends the weights to the other ranks
    def load_networks(self, tag: str | int) -> None:
        """Load every network from `{tag}_net_{NAME}.pth`; UserError where that cannot be."""
        for name, net in self.named_networks().items():
            path = checkpoint.weights_path(self.save_dir, tag, name)
            checkpoint.load_weights(net, path, explain=architecture.differences)
            distributed.say(f"loaded {path}")

    def print_networks(self, verbose: bool) -> None:
        """Say how large the networks are; layer by layer if verbose."""
        for name, net in self.named_networks().items():
            if verbose:
                distributed.say(str(net))
            count = sum(p.numel() for p in net.parameters())
            distributed.say(f"network {name}: {count / 1e6:.3f} million parameters")

    @staticmethod
    def set_requires_grad(nets: nn.Module | Iterable[nn.Module], requires_grad: bool) -> None:
        """Switch the gradients of one network or several on or off."""
        for net in [nets] if isinstance(nets, nn.Module) else nets:
            net.requires_grad_(requires_grad)
