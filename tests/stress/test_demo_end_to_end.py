"""From the drawn demo dataset to trained, tested models: do they learn what they should?"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image, ImageFilter

import test
import train
from scripts import held_out_l1, make_demo_dataset
from scripts.demo_facades.tables import PALETTE

SIZE = 64


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo dataset, small: 24 pairs to train, 6 to test, and the unpaired images beside it."""
    out = tmp_path_factory.mktemp("data") / "demo"
    counts = ["--train", "24", "--val", "0", "--test", "6"]
    make_demo_dataset.main(["--out", str(out), "--size", str(SIZE), *counts, "--workers", "2"])
    return out


# pix2pix from label maps to facades


@pytest.fixture(scope="module")
def facades(demo, tmp_path_factory):
    """The arguments for testing a small pix2pix that was trained for some seconds."""
    folder = tmp_path_factory.mktemp("facades")
    where = ["--dataroot", str(demo), "--name", "facades", "--model", "pix2pix"]
    where += ["--checkpoints_dir", str(folder / "checkpoints"), "--gpu_ids", "-1"]
    small = ["--netG", "resnet_6blocks", "--norm", "instance", "--ngf", "8", "--ndf", "8"]
    small += ["--load_size", str(SIZE), "--crop_size", str(SIZE), "--no_dropout"]
    schedule = ["--batch_size", "2", "--lr", "0.002", "--n_epochs", "8", "--n_epochs_decay", "8"]
    quiet = ["--print_freq", "1000", "--no_html", "--num_threads", "0"]
    train.main([*where, *small, *schedule, *quiet, "--direction", "BtoA"])
    return where


def test_held_out_l1_is_well_below_that_of_the_mean_image(facades, capsys):
    held_out_l1.main(facades)
    said = re.search(r"model ([\d.]+), mean image ([\d.]+)", capsys.readouterr().out)
    model, mean_image = map(float, said.groups())
    assert model < 0.85 * mean_image  # 0.75 to 0.79 of it for the seeds 0 to 3


def luminance(path):
    return np.asarray(Image.open(path)) @ np.array([0.299, 0.587, 0.114]) / 255


def around(mask, pixels=4):
    grown = Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * pixels + 1))
    return np.asarray(grown) > 0


def test_windows_are_darker_than_the_wall_around_them(facades, tmp_path):
    test.main([*facades, "--results_dir", str(tmp_path)])
    darker = []
    for path in (tmp_path / "facades" / "test_latest" / "images").glob("*_real_A.png"):
        label = np.asarray(Image.open(path))
        window, wall = ((label == PALETTE[name]).all(axis=2) for name in ("window", "wall"))
        made = luminance(path.with_name(path.name.replace("real_A", "fake_B")))
        darker.append(made[around(window) & wall].mean() - made[window].mean())
    assert len(darker) == 6
    assert np.mean(darker) > 0.1  # 0.16 to 0.20 for the seeds 0 to 3; 0.19 in the photographs


# CycleGAN on the unpaired images


@pytest.fixture(scope="module")
def cycle(demo, tmp_path_factory):
    """The folder of two equal runs of CycleGAN: "alone", and with four workers, "workers"."""
    folder = tmp_path_factory.mktemp("cycle")
    argv = ["--dataroot", f"{demo}_unpaired", "--model", "cycle_gan", *TINY]
    argv += ["--load_size", "68", "--crop_size", str(SIZE), "--checkpoints_dir", str(folder)]
    argv += ["--max_dataset_size", "6", "--n_epochs", "1", "--n_epochs_decay", "1", "--no_html"]
    for name, workers in {"alone": "0", "workers": "4"}.items():
        train.main([*argv, "--name", name, "--num_threads", workers])
    return folder


@pytest.mark.parametrize("network", ["G_A", "G_B", "D_A", "D_B"])
def test_workers_do_not_change_a_bit_of_the_weights(network, cycle):
    alone, workers = (
        torch.load(cycle / name / f"latest_net_{network}.pth", weights_only=True)
        for name in ("alone", "workers")
    )
    assert alone.keys() == workers.keys()
    assert all(torch.equal(alone[key], workers[key]) for key in alone)


def images(results):
    """{name: image} of a folder of results."""
    folder = results / "alone" / "test_latest" / "images"
    return {path.name: np.asarray(Image.open(path)) for path in folder.iterdir()}


def results_of(data, cycle, results, *more):
    where = ["--dataroot", str(data), "--name", "alone", "--checkpoints_dir", str(cycle)]
    test.main([*where, "--results_dir", str(results), "--gpu_ids", "-1", *more])
    return images(results)


NUMBERS = [f"{i:04d}" for i in range(1, 7)]


def named(kind, *visuals):
    return {f"{kind}{number}_{visual}.png" for number in NUMBERS for visual in visuals}


def test_both_directions_at_once_and_each_by_itself(demo, cycle, tmp_path):
    unpaired = Path(f"{demo}_unpaired")
    both = results_of(unpaired, cycle, tmp_path / "both", "--model", "cycle_gan")
    assert both.keys() == named("photo", "real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B")
    assert {image.shape for image in both.values()} == {(SIZE, SIZE, 3)}
    sides = {"A": ("photo", "real_A", "fake_B"), "B": ("label", "real_B", "fake_A")}
    for side, (kind, real, fake) in sides.items():
        only = ["--model", "test", "--model_suffix", f"_{side}"]
        one = results_of(unpaired / f"test{side}", cycle, tmp_path / side, *only)
        assert one.keys() == named(kind, "real", "fake")
        for n in NUMBERS:
            assert np.array_equal(one[f"{kind}{n}_real.png"], both[f"photo{n}_{real}.png"])
            assert np.array_equal(one[f"{kind}{n}_fake.png"], both[f"photo{n}_{fake}.png"])
