"""How good is a paired model? Its L1 on held-out pairs, beside that of the mean picture.

    python scripts/held_out_l1.py --dataroot ./datasets/demo --name demo --model pix2pix

Takes the options of test.py. The mean picture is the mean of the training targets: what one would
answer without looking at the input. Both numbers are in units of the networks' range, [-1, 1].
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import create_dataset  # noqa: E402
from models import create_model  # noqa: E402
from options.test_options import TestOptions  # noqa: E402
from util import distributed  # noqa: E402


def main(argv: Sequence[str] | None = None) -> None:
    """Print both numbers."""
    opt = TestOptions().parse(argv)
    distributed.seed_everything(opt.seed)
    model_l1, mean_l1 = held_out_l1(opt)
    print(
        f"L1 on the pairs of phase {opt.phase}: model {model_l1:.4f}, mean picture {mean_l1:.4f}, "
        f"ratio {model_l1 / mean_l1:.2f}"
    )


def held_out_l1(opt: argparse.Namespace) -> tuple[float, float]:
    """Mean |output - target| of the model, and of the mean training target."""
    model = create_model(opt)
    model.setup(opt)
    mean = mean_target(opt)
    errors: list[tuple[float, float]] = []
    for batch in create_dataset(opt):
        model.set_input(batch)
        model.test()
        target = model.real_B.cpu()
        errors.append((l1(model.fake_B.cpu(), target), l1(mean, target)))
    count = len(errors)
    return sum(e[0] for e in errors) / count, sum(e[1] for e in errors) / count


def mean_target(opt: argparse.Namespace) -> Tensor:
    """The mean of the training targets, (1, C, H, W)."""
    training = argparse.Namespace(**{**vars(opt), "phase": "train"})
    key = "B" if opt.direction == "AtoB" else "A"
    targets = [batch[key] for batch in create_dataset(training)]
    return torch.stack(targets).mean(0)


def l1(a: Tensor, b: Tensor) -> float:
    """Mean absolute difference."""
    return (a - b).abs().mean().item()


if __name__ == "__main__":
    distributed.run(main)
