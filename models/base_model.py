"""What every model shares: the contract of the project, and people's own models, is here."""

import warnings
from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from models import networks, recorded_step, step
from models.networks import cpu_layers, infer_options
from models.networks.activation_checkpointing import checkpoint_activations
from models.recorded_step import RecordedStep
from util import checkpoint, distributed, precision
from util.checkpoint.train_state import stateful
from util.errors import UserError


class BaseModel(ABC):
    """A model: its networks, losses and optimizers, and how one step goes.

    A subclass calls `super().__init__(opt)`, then sets

    - `loss_names`: after a step the loss NAME is `self.loss_NAME`, a scalar tensor or number;
    - `model_names`: the network NAME is `self.netNAME`, saved as `{tag}_net_NAME.pth`;
    - `visual_names`: after a step or a test the image NAME is `self.NAME`, (N, C, H, W), [-1, 1];
    - `optimizers`: the LR scheduler drives each of them,

    and implements `set_input`, `forward` and `optimize_parameters`, as models/template_model.py
    does. For --precision fp16 that calls `self.backward(loss)`, not `loss.backward()`, and for
    --accumulate it does so for each of `self.micro_batches()`.
    """

    needs: tuple[str, ...] = ()  # what a sample must have: "A", "B"
    find_unused_parameters = False  # whether a step may leave out weights (several ranks ask)
    # Whether a step may be recorded in a CUDA graph: no `.item()`, nothing else that Python decides
    # but by an ImagePool that is asked once. What it keeps for the next step is a tensor that it
    # changes in place: numbers, and attributes that it sets anew, stay as they were recorded.
    # Each class says so for itself, subclasses do not inherit it.
    records_step = False

    def __init__(self, opt: Namespace):
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
        self._recorded_step: RecordedStep | None = None
        self._micro_batches: step.MicroBatches | None = None  # in a step of `train_on`
        self._in_backward = False
        scaled = self.isTrain and precision.PRECISIONS[opt.precision].scaled
        self.gradient_scaler = step.GradientScaler(opt.device.type, enabled=scaled)

    @staticmethod
    def modify_commandline_options(parser: ArgumentParser, is_train: bool) -> ArgumentParser:
        """Add options of this model, and change defaults with `parser.set_defaults`."""
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> Iterable[str]:
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

    def take_pair(self, input: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """For `set_input`: source and target of a batch, as --direction says, on `self.device`."""
        source, target = ("A", "B") if self.opt.direction == "AtoB" else ("B", "A")
        self.image_paths = input[f"{source}_paths"]
        x, y = (input[side].to(self.device, non_blocking=True) for side in (source, target))
        return x, y

    def add_adam(self, *nets: nn.Module) -> torch.optim.Adam:
        """Adam over the weights of networks, with --lr and --beta1; now one of `optimizers`."""
        weights = [weight for net in nets for weight in net.parameters()]
        adam = torch.optim.Adam(weights, lr=self.opt.lr, betas=(self.opt.beta1, 0.999))
        self.optimizers.append(adam)
        return adam

    def setup(self, opt: Namespace) -> None:
        """Make the model ready: weights where asked for, device, ranks, faster layers."""
        weights_only = self.isTrain and opt.continue_train and opt.saved_run is None
        if not self.isTrain or weights_only:  # a training state has the weights, too
            self.load_networks(checkpoint.tag(opt))
        for net in self._all(nn.Module):  # losses, and networks that are not saved, as well
            net.to(self.device)
        if self.isTrain:
            for name, net in self.named_networks().items():
                wrapped = distributed.wrap(net, opt.norm, self.find_unused_parameters)
                setattr(self, f"net{name}", wrapped)
        for net in self._all(nn.Module):
            cpu_layers.swap_in(net, self.device, opt.precision, training=self.isTrain)
        if self.isTrain:
            self._prepare_step(opt)
        if opt.compile:
            self._compile(opt)
        self.print_networks(opt.verbose)

    def _all(self, kind: type) -> list[Any]:
        """All of a class among the attributes, in lists and dicts too; modules unwrapped."""
        return [thing for _, thing in stateful(self) if isinstance(thing, kind)]

    def _prepare_step(self, opt: Namespace) -> None:
        optimizers = self._all(torch.optim.Optimizer)  # not only those that have a scheduler
        distributed.check_wrapped(self.named_networks().values(), optimizers)
        if opt.checkpoint_activations:
            for net in self._all(nn.Module):
                checkpoint_activations(net)
        step.fuse(optimizers)
        if opt.accumulate > 1 or self.gradient_scaler.is_enabled():
            step.watch(self)
        self.gradient_scaler.attach(optimizers)
        self.schedulers = [networks.get_scheduler(o, opt) for o in self.optimizers]
        if self.device.type == "cuda" and not opt.no_cuda_graph:
            self._prepare_recording(optimizers)

    def _prepare_recording(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        missing = recorded_step.missing(self, optimizers)
        if missing:
            distributed.print0(
                f"steps are not recorded in a CUDA graph: needs {', '.join(missing)}"
            )
        else:
            self._recorded_step = RecordedStep(self, optimizers)

    def _compile(self, opt: Namespace) -> None:
        fixed = self.isTrain and "crop" in opt.preprocess
        nets = map(distributed.unwrap, self.named_networks().values())
        precision.compile_networks(nets, fixed)

    def train_on(self, batch: Mapping[str, Any]) -> None:
        """One step of training as the options say; UserError if memory or an image forbids it."""
        with (
            step.explain_out_of_memory(self.opt, batch),
            step.name_images_in_errors(self.get_image_paths),
        ):
            if self.opt.accumulate > 1:
                self._micro_batches = step.MicroBatches(self, batch)
                self.make_step()
            elif self._recorded_step:
                self._recorded_step(batch)
            else:
                self.set_input(batch)
                self.make_step()
        self._micro_batches = None

    def make_step(self) -> None:
        """One step on the batch that `set_input` took, in the precision of the options."""
        with precision.autocast(self.device, self.opt.precision):
            self.optimize_parameters()
        self.gradient_scaler.update()

    def micro_batches(self) -> Iterable[int]:
        """Put each part that --accumulate makes of the batch into the model in turn; its number.

        `optimizer.step()` comes after the loop; the losses are means over the images.
        """
        return self._micro_batches or (0,)

    @property
    def is_accumulating(self) -> bool:
        """Whether the batch has several parts."""
        return self._micro_batches is not None and len(self._micro_batches) > 1

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """`loss.backward()` of a scalar, scaled for --precision fp16, weighted for --accumulate."""
        share = self._micro_batches.share if self._micro_batches else 1
        if share is None:
            raise step.wrong_step(self)
        loss = self.gradient_scaler.scale(loss if share == 1 else loss * share)
        self._in_backward = True
        loss.backward(retain_graph=retain_graph)
        self._in_backward = False

    def named_networks(self) -> Mapping[str, nn.Module]:
        """The networks by name."""
        return self._view("model_names", "net")

    def named_losses(self) -> Mapping[str, Tensor | float]:
        """The losses of the last step by name, on the device."""
        return self._view("loss_names", "loss_")

    def losses_so_far(self) -> dict[str, Tensor | float]:
        """As named_losses, without those that the first steps do not compute yet."""
        known = {name: getattr(self, f"loss_{name}", None) for name in self.loss_names}
        return {name: value for name, value in known.items() if value is not None}

    def _view(self, names: str, prefix: str) -> Mapping[str, Any]:
        """The attributes `prefix` + name of the names in `names`, by name."""
        found = {name: getattr(self, prefix + name, None) for name in getattr(self, names)}
        for name, value in found.items():
            if value is None:
                problem = f"{names} has {name!r}, but there is no self.{prefix}{name}; set it"
                raise UserError(f"{type(self).__name__}: {problem}")
        return found

    def eval(self) -> None:
        """Put the networks into evaluation mode."""
        for net in self.named_networks().values():
            net.eval()

    def test(self) -> None:
        """Compute the output images and visuals, without gradients."""
        with torch.no_grad(), step.name_images_in_errors(self.get_image_paths):
            with precision.autocast(self.device, self.opt.precision):
                self.forward()
            self.compute_visuals()

    def compute_visuals(self) -> None:  # noqa: B027  optional for a subclass
        """Compute images that only people look at; called before they are shown."""

    def get_image_paths(self) -> list[str]:
        """Where the images of the current batch come from."""
        return self.image_paths

    def end_step(self) -> None:
        """Note the loss that --lr_policy plateau follows: `loss_G`, or the sum of all but D's."""
        if self.opt.lr_policy == "plateau":
            losses = self.losses_so_far().items()
            terms = [loss for name, loss in losses if name != "D" and not name.startswith("D_")]
            with torch.no_grad():
                loss = getattr(self, "loss_G", sum(terms))
                self._generator_loss_sum = self._generator_loss_sum + loss
            self._generator_loss_count += 1

    def update_learning_rate(self) -> None:
        """Step the LR schedulers; called at the end of every epoch."""
        if self._generator_loss_count:
            mean = self._generator_loss_sum / self._generator_loss_count
            self.metric = distributed.mean({"metric": mean})["metric"]
            self._generator_loss_sum, self._generator_loss_count = 0.0, 0
        with warnings.catch_warnings():  # a run may resume between its last step and this
            warnings.filterwarnings("ignore", ".*before `optimizer.step", UserWarning)
            for scheduler in self.schedulers:
                plateau = isinstance(scheduler, ReduceLROnPlateau)
                scheduler.step(*([self.metric] if plateau else []))

    def get_current_losses(self) -> dict[str, float]:
        """The losses of the last step as numbers, averaged over ranks; waits for the device."""
        return distributed.mean(self.named_losses())

    def get_current_visuals(self) -> dict[str, Tensor]:
        """The images of the last step or test by name, (N, C, H, W) in [-1, 1]."""
        half, visuals = (torch.bfloat16, torch.float16), self._view("visual_names", "")
        # what a model of yours shows may be no tensor
        return {
            k: v.float() if getattr(v, "dtype", None) in half else v for k, v in visuals.items()
        }

    def save_networks(self, tag: str | int) -> None:
        """Save every network as `{tag}_net_{NAME}.pth`."""
        for name, net in self.named_networks().items():
            path = checkpoint.weights_path(Path(self.save_dir), str(tag), name)
            checkpoint.save_weights(net, path)

    @distributed.main_only  # setup sends the weights to the other ranks
    def load_networks(self, tag: str | int) -> None:
        """Load every network from `{tag}_net_{NAME}.pth`; UserError where that cannot be."""
        for name, net in self.named_networks().items():
            path = checkpoint.weights_path(Path(self.save_dir), str(tag), name)
            checkpoint.load_weights(net, path, explain=infer_options.differences)
            distributed.print0(f"loaded {path}")

    def print_networks(self, verbose: bool) -> None:
        """Say how large the networks are; layer by layer if verbose."""
        for name, net in self.named_networks().items():
            if verbose:
                distributed.print0(str(net))
            millions = sum(p.numel() for p in net.parameters()) / 1e6
            distributed.print0(f"network {name}: {millions:.3f} million parameters")

    @staticmethod
    def set_requires_grad(nets: Any, requires_grad: bool = False) -> None:
        """Switch the gradients of a network, or of a list of them, on or off; None is left out."""
        for net in filter(None, [nets] if hasattr(nets, "requires_grad_") else nets):
            net.requires_grad_(requires_grad)
