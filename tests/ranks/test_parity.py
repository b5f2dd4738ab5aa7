"""World size changes nothing but speed: the same weights from 1, 2 and 4 ranks."""

import os
from pathlib import Path

import pytest
import torch
from conftest import TINY, write_images
from same import logged_losses
from torchrun import train_runs

# 16 images in batches of 4, 5 epochs: 20 steps
STEPS = ["--global_batch_size", "4", "--n_epochs", "3", "--n_epochs_decay", "2"]
# A tenth of the usual rate: at that one, 20 steps of Adam make 1e-9 of the rounding of 1e-16.
SAME = ["--no_dropout", "--pool_size", "0", "--no_html", *STEPS, "--lr", "0.00002"]
SAME += ["--print_freq", "4"]
CASES = {
    "pix2pix": ["--model", "pix2pix"],  # batch norm on one rank, syncbatch on several
    "cycle_gan": ["--model", "cycle_gan", "--norm", "instance"],
    "pix2pix_wgangp": ["--model", "pix2pix", "--gan_mode", "wgangp"],
    "cycle_gan_wgangp": ["--model", "cycle_gan", "--gan_mode", "wgangp"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder in which every case was trained on 1, 2 and 4 ranks, and first gradients saved."""
    folder = tmp_path_factory.mktemp("runs")
    write_images(folder / "data" / "train", 16, width=64)
    write_images(folder / "data" / "trainA", 16)
    write_images(folder / "data" / "trainB", 11)
    before = Path.cwd()
    os.chdir(folder)
    for ranks in (1, 2, 4):
        lines = [command_line("bypassed", *CASES["pix2pix"], "--bypass_wrapper")] * (ranks == 2)
        for case, argv in CASES.items():
            line = command_line(f"{case}_on_{ranks}", *argv)
            lines += [line, f"{line} --first_gradients {case}_on_{ranks}.pth"]
        train_runs(ranks, *lines)
    yield folder
    os.chdir(before)


def command_line(name, *argv):
    return " ".join(["--dataroot", "data", "--name", name, *TINY, *SAME, *argv])


def weights(name):
    files = sorted(Path("checkpoints", name).glob("latest_net_*.pth"))
    return {f"{f.name} {k}": v for f in files for k, v in torch.load(f).items()}


def losses(name):
    rows = logged_losses(f"checkpoints/{name}")
    return [{k: float(v) for k, v in row.items()} for row in rows]


def cancelled_bias(key, keys):
    """Whether `key` is a bias before an instance norm, whose mean subtraction cancels it.

    All the gradient it has is rounding noise, which Adam divides by its epsilon of 1e-8: it stays
    near 0, and no digit of it means anything. `keys` are those of an instance norm network.
    """
    network = key.split()[0]
    last = [k for k in keys if k.startswith(network)][-1]
    return key.endswith("bias") and key not in (f"{network} model.0.bias", last)


def difference(a, b):
    """The largest difference of two runs, relative to the largest value of each tensor."""
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys() and len(a) > 20
    batch_norm = any("running" in key for key in a)
    cancelled = [key for key in a if not batch_norm and cancelled_bias(key, list(a))]
    assert all(float(run[key].abs().max()) < 1e-6 for run in (a, b) for key in cancelled)
    compared = [k for k in a if a[k].is_floating_point() and k not in cancelled]
    assert len(compared) > len(a) / 2
    return max(float((a[k] - b[k]).abs().max() / scale(a[k])) for k in compared)


def scale(tensor):
    """Its largest value; 1 for zeros (the last bias of a WGAN critic has no gradient)."""
    return tensor.abs().max() or torch.ones(())


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_the_same_weights_and_losses_as_one_process(case, ranks, runs):
    one, other = f"{case}_on_1", f"{case}_on_{ranks}"
    pairs = [
        (mine[name], theirs[name])
        for mine, theirs in zip(losses(one), losses(other), strict=True)
        for name in mine
    ]
    of_losses = max(abs(theirs / mine - 1) for mine, theirs in pairs if mine)
    print(f"{case}, {ranks} ranks: weights {difference(one, other):.1e}, losses {of_losses:.1e}")
    assert len(losses(one)) == 20
    assert difference(one, other) < 1e-9 and of_losses < 1e-9
    assert all(theirs == 0 for mine, theirs in pairs if not mine)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_the_same_gradients_of_the_first_step_in_float32(case, ranks, runs):
    one, other = (torch.load(f"{case}_on_{r}.pth") for r in (1, ranks))
    batch_norm = case.startswith("pix2pix")
    for key, gradient in one.items():
        if batch_norm or not cancelled_bias(key, list(one)):
            assert float((other[key] - gradient).abs().max() / scale(gradient)) < 1e-5, key


def test_plain_batch_norm_under_ddp_fails_that_test(runs):
    """The wrapper's conversion bypassed: what the original does, and why it matters."""
    assert difference("pix2pix_on_1", "bypassed") > 1e-3
