"""What every model shares: the contract of the project, and people's own models, is here."""

import argparse
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from models import networks
from models.fused_adam import fuse
from models.networks import cpu_layers, infer_options
from models.networks.activation_checkpointing import checkpoint_activations
from models.step import GradientScaler, Parts, held, scaled_backward, stepping_through
from util import checkpoint, device_memory, distributed, precision
from util.errors import ImageSizeError, UserError

HALF = (torch.bfloat16, torch.float16)


@contextmanager
def frozen(*nets: nn.Module) -> Iterator[None]:
    """Within this block the networks get no gradients, which saves computing them."""
    BaseModel.set_requires_grad(nets, False)
    try:
        yield
    finally:
        BaseModel.set_requires_grad(nets, True)


@contextmanager
def naming_images(model: "BaseModel") -> Iterator[None]:
    """Within this block an image that a network cannot take is named in the error."""
    try:
        yield
    except ImageSizeError as error:
        paths = ", ".join(str(path) for path in model.get_image_paths()[:4])
        raise UserError(f"in the batch of {paths}: {error}") from None


def _size_of(batch: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the pictures in a batch, the first that there are."""
    for value in batch.values():
        if isinstance(value, Tensor) and value.dim() == 4:
            return value.shape[-2], value.shape[-1]
    return None


def check_discriminator(opt: argparse.Namespace) -> Iterator[str]:
    """For `check_options` of a model with a discriminator: what its training would stumble on."""
    if not opt.isTrain or opt.netD not in networks.DISCRIMINATORS:
        return
    least = networks.DISCRIMINATORS[opt.netD].minimum(opt.n_layers_D)
    if "crop" in opt.preprocess and 0 < opt.crop_size < least:
        yield f"--crop_size {opt.crop_size} is too small for --netD {opt.netD}; use {least} or more"


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
        self._generator_loss_sum: Tensor | float = 0.0
        self._generator_loss_count = 0
        self._records_graphs = False  # compiled networks, in CUDA graphs
        self._parts: Parts | None = None  # while a batch is computed in parts
        self.gradient_scaler = GradientScaler(
            opt.device.type, enabled=self.isTrain and precision.PRECISIONS[opt.precision].scaled
        )

    @staticmethod
    def modify_commandline_options(
        parser: argparse.ArgumentParser, is_train: bool
    ) -> argparse.ArgumentParser:
        """Add options of this model, and change defaults with `parser.set_defaults`."""
        return parser

    needs: tuple[str, ...] = ()  # what a sample must have: "A", "B"

    @staticmethod
    def check_options(opt: argparse.Namespace) -> Iterable[str]:
        """Sentences about options that cannot work with this model; none if all is well."""
        return ()

    @abstractmethod
    def set_input(self, input: Mapping[str, Any]) -> None:
        """Take a batch of the dataset and move it to `self.device`."""

    @abstractmethod
    def forward(self) -> None:
        """Compute the output images; called for training and for testing."""

    @abstractmethod
    def optimize_parameters(self) -> None:
        """Compute losses and gradients and update the weights: one step of training."""

    def setup(self, opt: argparse.Namespace) -> None:
        """Make the model ready: load weights where asked for, schedules, device, ranks."""
        names = self.named_networks()
        weights_only = self.isTrain and opt.continue_train and opt.saved_run is None
        if not self.isTrain or weights_only:  # a training state has the weights, too
            self.load_networks(checkpoint.tag(opt))
        for value in vars(self).values():
            if isinstance(value, nn.Module):  # losses, and networks that are not saved, as well
                value.to(self.device)
        if self.isTrain:
            self._make_fast(opt)
            for name, net in names.items():
                setattr(self, f"net{name}", distributed.wrap(net, norm=opt.norm))
            self.schedulers = [networks.get_scheduler(o, opt) for o in self.optimizers]
        for net in [value for value in vars(self).values() if isinstance(value, nn.Module)]:
            cpu_layers.swap_in(net, self.device, opt.precision, training=self.isTrain)
        if opt.compile:
            self._compile(opt)
        self.print_networks(opt.verbose)

    def _make_fast(self, opt: argparse.Namespace) -> None:
        """Fused optimizers, and what saves memory; all is on its device."""
        nets = [net for net in vars(self).values() if isinstance(net, nn.Module)]
        fuse(self.optimizers)
        if opt.checkpoint_activations:
            for net in nets:
                checkpoint_activations(net)
        if opt.accumulate > 1 and not self._splits_batches and len(self.optimizers) != 1:
            raise UserError(
                f"--accumulate {opt.accumulate}: {type(self).__name__} has "
                f"{len(self.optimizers)} optimizers and does not say in which order they meet the "
                "parts of a batch; use a smaller --batch_size, or write its optimize_parameters as "
                "in models/pix2pix_model.py, with @in_parts and self.parts()"
            )

    def _compile(self, opt: argparse.Namespace) -> None:
        fixed = self.isTrain and "crop" in opt.preprocess
        parts = opt.accumulate if self.isTrain else 1
        reason = precision.why_no_graphs(self.device, fixed, parts)
        self._records_graphs = self.isTrain and reason is None
        if self.isTrain and self.device.type == "cuda" and reason:
            distributed.print0(f"--compile: no CUDA graphs, because {reason}")
        nets = map(distributed.unwrap, self.named_networks().values())
        precision.compile_networks(nets, self._records_graphs, fixed)

    @property
    def _splits_batches(self) -> bool:
        return getattr(type(self).optimize_parameters, "in_parts", False)

    def train_on(self, batch: Mapping[str, Any]) -> None:
        """One step of training, as the options say: precision, batch in parts, scaled gradients.

        Args:
            batch: of the dataset.

        Raises:
            UserError: memory ran out.
        """
        opt = self.opt
        if self._records_graphs:
            precision.next_step()
        if opt.accumulate > 1:
            self._parts = Parts(self, batch, max(1, opt.batch_size // opt.accumulate))
        with (
            device_memory.shortage_explained(opt, lambda: _size_of(batch)),
            stepping_through(self.gradient_scaler, self.optimizers),
            self._scaled_backward(),
        ):
            if self._parts is None:
                self.set_input(batch)
            with precision.autocast(self.device, opt.precision):
                self._optimize()
        if self._parts is not None:
            self._parts.join()
            self._parts = None

    def _optimize(self) -> None:
        if self._parts is None or self._splits_batches:
            self.optimize_parameters()
            return
        zeroed = [*self.optimizers, *self.named_networks().values()]
        last = len(self._parts.batches) - 1
        for place in self._parts.visit():
            with (
                held(zeroed if place else (), "zero_grad"),
                held(self.optimizers if place < last else (), "step"),
            ):
                self.optimize_parameters()

    def _scaled_backward(self) -> AbstractContextManager:
        if self._parts is None and not self.gradient_scaler.is_enabled():
            return nullcontext()
        return scaled_backward(self._scale)

    def _scale(self, loss: Tensor) -> Tensor:
        weight = self._parts.weight if self._parts else 1
        return self.gradient_scaler.scale(loss) * weight

    def parts(self) -> Iterable[int]:
        """The parts of the batch, one after the other put into the model: --accumulate.

        For an `optimize_parameters` that is decorated with `in_parts`. Without --accumulate the
        batch is one part, which is there already.
        """
        return self._parts.visit() if self._parts else (0,)

    @property
    def in_parts(self) -> bool:
        """Whether the batch has more than one part: only images are kept of those passed by."""
        return self._parts is not None and len(self._parts.batches) > 1

    def named_networks(self) -> Mapping[str, nn.Module]:
        """The networks by name, read-only."""
        return self._view("model_names", "net")

    def named_losses(self) -> Mapping[str, Tensor | float]:
        """The losses of the last step by name, on the device, read-only."""
        return self._view("loss_names", "loss_")

    def losses_so_far(self) -> dict[str, Tensor | float]:
        """As named_losses, without those that the first steps do not compute yet."""
        known = {name: getattr(self, f"loss_{name}", None) for name in self.loss_names}
        return {name: value for name, value in known.items() if value is not None}

    def named_visuals(self) -> Mapping[str, Tensor]:
        """The images of the last step or test by name, read-only."""
        return self._view("visual_names", "")

    def _view(self, names: str, prefix: str) -> Mapping[str, Any]:
        """The one place where names turn into objects."""
        found = {name: getattr(self, prefix + name, None) for name in getattr(self, names)}
        for name, value in found.items():
            if value is None:
                raise UserError(
                    f"{type(self).__name__}: {names} has {name!r}, but there is no "
                    f"self.{prefix}{name}; set it, or take the name out of {names}"
                )
        return MappingProxyType(found)

    def eval(self) -> None:
        """Put the networks into evaluation mode."""
        for net in self.named_networks().values():
            net.eval()

    def test(self) -> None:
        """Compute the output images and visuals, without gradients."""
        with torch.no_grad():
            with precision.autocast(self.device, self.opt.precision):
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
            self._generator_loss_sum = self._generator_loss_sum + self._generator_loss()
            self._generator_loss_count += 1

    def update_learning_rate(self) -> None:
        """Step the schedules; called at the end of every epoch."""
        if self._generator_loss_count:
            mean = self._generator_loss_sum / self._generator_loss_count
            self.metric = distributed.mean({"metric": mean})["metric"]
            self._generator_loss_sum, self._generator_loss_count = 0.0, 0
        with warnings.catch_warnings():  # a run may go on after an epoch's last step, before this
            warnings.filterwarnings("ignore", ".*before `optimizer.step", UserWarning)
            for scheduler in self.schedulers:
                plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                scheduler.step(*([self.metric] if plateau else []))

    def _generator_loss(self) -> Tensor | float:
        """`self.loss_G` where there is one, else the sum of all losses but the discriminators'."""
        if hasattr(self, "loss_G"):
            parts = [self.loss_G]
        else:
            losses = self.named_losses()
            parts = [v for k, v in losses.items() if k != "D" and not k.startswith("D_")]
        return sum(part.detach() if isinstance(part, Tensor) else part for part in parts)

    def get_current_losses(self) -> dict[str, float]:
        """The losses of the last step as numbers, averaged over ranks; waits for the device."""
        losses = self.named_losses()
        for name, value in losses.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                raise UserError(
                    f"{type(self).__name__}: self.loss_{name} has shape {tuple(value.shape)}; a "
                    "loss is one number, so take its mean or sum"
                )
        return distributed.mean(losses)

    def get_current_visuals(self) -> dict[str, Tensor]:
        """The images of the last step or test by name, (N, C, H, W) in [-1, 1]."""
        visuals = self.named_visuals()
        return {k: v.float() if v.dtype in HALF else v for k, v in visuals.items()}

    def save_networks(self, tag: str | int) -> None:
        """Save every network as `{tag}_net_{NAME}.pth`."""
        for name, net in self.named_networks().items():
            checkpoint.save_weights(net, checkpoint.weights_path(self.save_dir, tag, name))

    @distributed.main_only  # setup sends the weights to the other ranks
    def load_networks(self, tag: str | int) -> None:
        """Load every network from `{tag}_net_{NAME}.pth`; UserError where that cannot be."""
        for name, net in self.named_networks().items():
            path = checkpoint.weights_path(self.save_dir, tag, name)
            checkpoint.load_weights(net, path, explain=infer_options.differences)
            distributed.print0(f"loaded {path}")

    def print_networks(self, verbose: bool) -> None:
        """Say how large the networks are; layer by layer if verbose."""
        for name, net in self.named_networks().items():
            if verbose:
                distributed.print0(str(net))
            count = sum(p.numel() for p in net.parameters())
            distributed.print0(f"network {name}: {count / 1e6:.3f} million parameters")

    @staticmethod
    def set_requires_grad(
        nets: nn.Module | Iterable[nn.Module | None], requires_grad: bool = False
    ) -> None:
        """Switch the gradients of one network or several on or off; None is passed over."""
        for net in [nets] if isinstance(nets, nn.Module) else nets:
            if net is not None:
                net.requires_grad_(requires_grad)
