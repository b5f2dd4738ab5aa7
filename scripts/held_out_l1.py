"""How good is a paired model? Its L1 on held-out pairs, beside that of the mean image.

    python scripts/held_out_l1.py --dataroot ./datasets/demo --name demo --model pix2pix

Takes the options of test.py. The mean image is the mean of the training targets: what one would
answer without looking at the input. Both numbers are in units of the networks' range, [-1, 1].
"""

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import create_dataset, find_dataset_using_name  # noqa: E402
from data.unaligned_dataset import UnalignedDataset  # noqa: E402
from models import create_model  # noqa: E402
from options.parser import Parser  # noqa: E402
from options.test_options import TestOptions, with_batch_size_1  # noqa: E402
from util import distributed, rng  # noqa: E402
from util.errors import UserError  # noqa: E402


class HeldOutOptions(TestOptions):
    """Print the L1 of a paired model on held-out pairs, and that of the mean training target."""

    program = "held_out_l1.py"

    def initialize(self, parser: Parser) -> None:
        """The options of test.py, for pix2pix unless another model is named."""
        super().initialize(parser)
        parser.set_defaults(model="pix2pix")


def main(argv: Sequence[str] | None = None) -> None:
    """Print both numbers; `argv` None takes the program's own arguments."""
    distributed.one_process_only()
    opt = HeldOutOptions().parse(argv)
    refuse_unpaired(opt)
    rng.seed_everything(opt.seed)
    model_l1, mean_l1 = held_out_l1(opt)
    ratio = f", ratio {model_l1 / mean_l1:.2f}" if mean_l1 else ""
    distributed.print0(
        f"L1 on the pairs of phase {opt.phase}: model {model_l1:.4f}, "
        f"mean image {mean_l1:.4f}{ratio}"
    )


def refuse_unpaired(opt: argparse.Namespace) -> None:
    """Raise UserError if the dataset is known to have no pairs."""
    dataset = find_dataset_using_name(opt.dataset_mode)
    if issubclass(dataset, UnalignedDataset) or not {"A", "B"} <= set(dataset.provides):
        raise UserError(
            f"--model {opt.model} --dataset_mode {opt.dataset_mode}: there are no pairs; "
            "use --dataset_mode aligned on a dataset of pairs"
        )


def held_out_l1(opt: argparse.Namespace) -> tuple[float, float]:
    """Mean |output - target| of the model, and of the mean training target.

    Raises:
        UserError: the model does not make a fake_B for a real_B, or the targets differ in size.
    """
    training = argparse.Namespace(**{**vars(opt), "phase": "train", "num_test": float("inf")})
    errors = [(output - target).abs().mean().item() for output, target in outputs(opt)]
    mean = mean_image(targets(training))
    mean_errors = [(mean - same_size(target, mean)).abs().mean().item() for target in targets(opt)]
    return sum(errors) / len(errors), sum(mean_errors) / len(mean_errors)


def outputs(opt: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """What the model makes of each held-out input, and what it should make, (1, C, H, W) each."""
    model = create_model(opt)
    model.setup(opt)
    if opt.eval:
        model.eval()
    for batch in batches(opt):
        model.set_input(batch)
        model.test()
        if not (hasattr(model, "fake_B") and hasattr(model, "real_B")):
            raise UserError(
                f"--model {opt.model} makes no fake_B to compare with a real_B; use the model "
                "trained on the pairs, as --model pix2pix"
            )
        yield model.fake_B.cpu(), model.real_B.cpu()


def targets(opt: argparse.Namespace) -> Iterator[Tensor]:
    """The true images of a part of the dataset, (1, C, H, W) each."""
    return (batch["B" if opt.direction == "AtoB" else "A"] for batch in batches(opt))


def batches(opt: argparse.Namespace) -> Iterator[dict]:
    """The first --num_test samples, one by one: the loader's batches are of size 1 in testing."""
    loader = create_dataset(with_batch_size_1(opt))
    return itertools.islice(loader, int(min(len(loader), opt.num_test)))


def mean_image(images: Iterable[Tensor]) -> Tensor:
    """The mean of images of one size, held one at a time."""
    images = iter(images)
    mean = next(images).double()
    for count, image in enumerate(images, start=2):
        mean += (same_size(image, mean) - mean) / count
    return mean


def same_size(image: Tensor, other: Tensor) -> Tensor:
    """`image`, if it is as large as `other`; else there is no mean image: UserError."""
    if image.shape != other.shape:
        sizes = " and ".join(f"{t.shape[-1]}x{t.shape[-2]}" for t in (other, image))
        raise UserError(
            f"the targets are of different sizes ({sizes}), so they have no mean image; use "
            "--preprocess resize_and_crop"
        )
    return image


if __name__ == "__main__":
    distributed.run(main)
