"""What train.py and test.py do, as variants for the harness.

The project is imported when a run is built, from the checkout that is given, of which only entry
points are used: so this measures older versions too.
"""

import argparse
import itertools
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harness import timed, write_images
from torch.utils.flop_counter import FlopCounterMode


class TrainingStep:
    """Steps of training as train.py makes them, on random images that are on the device."""

    def __init__(self, checkout: Path, argv: list[str], count: int) -> None:
        """Build the model that `argv` asks train.py for; a round has `count` steps."""
        sys.path.insert(0, str(checkout))
        from models import create_model
        from options.train_options import TrainOptions

        opt = TrainOptions().parse(argv)
        self.configure(opt)
        torch.manual_seed(0)
        self.model, self.count = create_model(opt), count
        self.model.setup(opt)
        self.batches = itertools.cycle([random_batch(self.model) for _ in range(4)])

    def configure(self, opt: argparse.Namespace) -> None:
        """Set up the process as train.py does."""
        from util.precision import configure

        configure(opt.device, opt.precision, "crop" in opt.preprocess)

    def step(self) -> None:
        """One step."""
        self.model.train_on(next(self.batches))

    def __call__(self) -> float:
        """Seconds per step of one round."""
        return timed(self.step, self.model.device.type, self.count)

    def flops(self) -> int:
        """Additions and multiplications in the convolutions of a step, backward pass included."""
        with FlopCounterMode(display=False) as counter:
            self.step()
        return counter.get_total_flops()

    def memory(self) -> str:
        """The most that this process has taken, on its device."""
        if self.model.device.type == "cuda":
            return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"  # Linux


def random_batch(model: Any) -> dict[str, object]:
    """What a loader would give, uniform noise in [-1, 1], on the device."""
    opt, sides = model.opt, "AB" if model.opt.direction == "AtoB" else "BA"
    batch: dict[str, object] = {f"{side}_paths": [""] * opt.batch_size for side in sides}
    for side, channels in zip(sides, (opt.input_nc, opt.output_nc), strict=True):
        shape = (opt.batch_size, channels, opt.crop_size, opt.crop_size)
        batch[side] = torch.rand(shape, device=model.device) * 2 - 1
    return batch


class Network(NamedTuple):
    """What a run of test.py tests."""

    netG: str
    norm: str
    options: list[str]
    images: int
    width: int  # of a file, 256 high: 512 for a pair


NETWORKS = {
    "resnet": Network("resnet_9blocks", "instance", ["--model", "test", "--no_dropout"], 24, 256),
    "unet": Network("unet_256", "batch", ["--model", "pix2pix"], 64, 512),
}


class TestingRun:
    """A whole run of test.py but for starting Python: build, load weights, images to page."""

    def __init__(self, checkout: Path, name: str, flags: list[str], images: int) -> None:
        """Write images, and random weights of a network in `NETWORKS`."""
        sys.path.insert(0, str(checkout))
        from models.networks import define_G

        netG, norm, options, _, width = NETWORKS[name]
        self.folder = tempfile.TemporaryDirectory()
        root = self.root = Path(self.folder.name)
        write_images(root / "test", images, width, 256)
        torch.manual_seed(0)
        (root / "n").mkdir()
        torch.save(define_G(3, 3, 64, netG, norm).state_dict(), root / "n/latest_net_G.pth")
        self.argv = ["--dataroot", str(root if width == 512 else root / "test"), "--name", "n"]
        self.argv += [*options, *flags, "--netG", netG, "--norm", norm]
        self.argv += ["--checkpoints_dir", str(root), "--results_dir", str(root / "results")]

    def __call__(self) -> float:
        """Seconds of a run."""
        from test import main  # type: ignore[attr-defined]  # not Python's own tests

        return timed(lambda: main(self.argv))
