"""scripts/held_out_l1.py on images of one colour, where both numbers are arithmetic."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from PIL import Image

from models import networks
from scripts import held_out_l1
from util.errors import UserError

SCRIPT = Path(held_out_l1.__file__)
GREY = {-0.6: 51, -0.2: 102, 0.2: 153, 0.6: 204}  # what [-1, 1] is in 8 bits


def pair(root, phase, name, value, side="B", width=32):
    """A image whose half `side` has one value, and the other half another one."""
    path = root / phase / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (2 * width, 32), (255, 255, 255))
    left = width if side == "B" else 0
    image.paste((GREY[value],) * 3, (left, 0, left + width, 32))
    image.save(path)


@pytest.fixture
def zero(here):
    """A trained model that answers 0 everywhere: tanh of no weight and no bias."""
    net = networks.define_G(3, 3, 4, "resnet_6blocks", "batch", True)
    for parameter in list(net.parameters())[-2:]:
        torch.nn.init.zeros_(parameter)
    folder = here / "checkpoints" / "zero"
    folder.mkdir(parents=True)
    torch.save(net.state_dict(), folder / "latest_net_G.pth")
    return here


def run(root, *more):
    tiny = ["--gpu_ids", "-1", "--ngf", "4", "--netG", "resnet_6blocks", "--crop_size", "32"]
    held_out_l1.main(["--dataroot", str(root), "--name", "zero", *tiny, *more])


@pytest.mark.parametrize(("direction", "side"), [("AtoB", "B"), ("BtoA", "A")])
def test_numbers_are_those_of_arithmetic(zero, capsys, direction, side):
    for i, value in enumerate([-0.6, -0.6, -0.2]):  # mean -1.4 / 3
        pair(zero, "train", i, value, side)
    pair(zero, "test", 1, 0.6, side)
    pair(zero, "test", 2, -0.2, side)
    run(zero, "--direction", direction)
    # model (0.6 + 0.2) / 2; mean image ((0.6 + 1.4 / 3) + (1.4 / 3 - 0.2)) / 2
    expected = "phase test: model 0.4000, mean image 0.6667, ratio 0.60"
    assert expected in capsys.readouterr().out


def test_phase_and_num_test_choose_the_held_out_pairs(zero, capsys):
    for i, value in enumerate([-0.6, 0.6]):  # mean 0, from all of them in spite of --num_test
        pair(zero, "train", i, value)
    pair(zero, "val", 1, 0.2)
    pair(zero, "val", 2, 0.6)
    run(zero, "--phase", "val", "--num_test", "1")
    assert "phase val: model 0.2000, mean image 0.2000, ratio 1.00" in capsys.readouterr().out


def test_targets_that_are_all_equal_leave_no_ratio(zero, capsys):
    pair(zero, "train", 1, 0.2)
    pair(zero, "test", 1, 0.2)
    run(zero)
    assert capsys.readouterr().out.rstrip().endswith("model 0.2000, mean image 0.0000")


def test_eval_reaches_the_model(monkeypatch):
    modes = []

    class Stub:
        fake_B = real_B = torch.zeros(1, 3, 4, 4)
        setup = set_input = lambda self, _: None
        eval = lambda self: modes.append("eval")  # noqa: E731
        test = lambda self: modes.append("test")  # noqa: E731

    monkeypatch.setattr(held_out_l1, "create_model", lambda opt: Stub())
    monkeypatch.setattr(held_out_l1, "batches", lambda opt: [{}])
    assert len(list(held_out_l1.outputs(Namespace(eval=True)))) == 1
    assert len(list(held_out_l1.outputs(Namespace(eval=False)))) == 1
    assert modes == ["eval", "test", "test"]


def test_the_mean_image_is_the_mean():
    images = torch.rand(7, 1, 3, 4, 5)
    found = held_out_l1.mean_image(iter(images))
    assert torch.allclose(found, images.double().mean(0), atol=1e-12)


def test_targets_of_different_sizes_are_refused(zero):
    pair(zero, "train", 1, 0.2, width=32)
    pair(zero, "train", 2, 0.2, width=64)
    pair(zero, "test", 1, 0.2)
    with pytest.raises(UserError, match="32x32 and 64x32.*--preprocess resize_and_crop"):
        run(zero, "--preprocess", "none")
    (zero / "train" / "1.png").unlink()  # the mean is there, and the test image does not fit it
    with pytest.raises(UserError, match="64x32 and 32x32.*--preprocess resize_and_crop"):
        run(zero, "--preprocess", "none")


def test_what_has_no_pairs_is_refused(zero, unaligned):
    with pytest.raises(UserError, match="--model cycle_gan --dataset_mode unaligned.*aligned"):
        run(unaligned, "--model", "cycle_gan")
    with pytest.raises(UserError, match="--model test --dataset_mode single.*aligned"):
        run(unaligned / "testA", "--model", "test")


def test_a_model_without_a_target_is_refused(zero, aligned):
    with pytest.raises(UserError, match="--model test makes no fake_B.*--model pix2pix"):
        run(aligned, "--model", "test", "--dataset_mode", "aligned", "--norm", "batch", "--dropout")


def test_it_speaks_in_its_own_name(here):
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=here, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("held_out_l1.py: error: ") and "--dataroot" in line
    assert "test.py" not in line
