"""World size changes nothing but speed: the same weights from 1, 2 and 4 ranks."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, write_pictures

HARNESS = Path(__file__).parent / "in_float64.py"
# 16 images in batches of 4, 5 epochs: 20 steps
STEPS = ["--global_batch_size", "4", "--n_epochs", "3", "--n_epochs_decay", "2"]
# A tenth of the usual rate: at that one, 20 steps of Adam make 1e-9 of the rounding of 1e-16.
SAME = ["--no_dropout", "--pool_size", "0", "--no_html", *STEPS, "--lr", "0.00002"]
SAME += ["--print_freq", "4"]
CASES = {
    "pix2pix": ["--model", "pix2pix"],
    "cycle_gan": ["--model", "cycle_gan", "--norm", "instance"],
    "pix2pix wgangp": ["--model", "pix2pix", "--gan_mode", "wgangp"],
    "cycle_gan wgangp": ["--model", "cycle_gan", "--gan_mode", "wgangp"],
}


def torchrun(ranks, *command, timeout=180):
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
    launcher += ["--standalone"]
    return subprocess.run(
        [*launcher, *map(str, command)], capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_pictures(root / "train", 16, width=64)
    write_pictures(root / "trainA", 16)
    write_pictures(root / "trainB", 11)
    return root


def train(data, name, ranks, *argv):
    command = [HARNESS, "--dataroot", data, "--name", name, *TINY, *SAME, *argv]
    done = torchrun(ranks, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def weights(name):
    files = sorted(Path("checkpoints", name).glob("latest_net_*.pth"))
    return {f"{f.name} {k}": v for f in files for k, v in torch.load(f).items()}


def losses(name):
    rows = csv.DictReader(open(f"checkpoints/{name}/losses.csv"))
    return [{k: float(v) for k, v in row.items() if k not in ("time", "data")} for row in rows]


def is_cancelled(key, keys):
    """Whether `key` is a bias before an instance norm, whose mean subtraction cancels it.

    All the gradient it has is rounding noise, which Adam divides by its epsilon of 1e-8: it stays
    near 0, and no digit of it means anything.
    """
    network = key.split()[0]
    own = [k for k in keys if k.startswith(network)]
    batch_norm = any("running" in k for k in own)
    return (
        key.endswith("bias") and not batch_norm and key not in (f"{network} model.0.bias", own[-1])
    )


def difference(a, b):
    """The largest difference of two runs, relative to the largest value of each tensor."""
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys() and len(a) > 20
    cancelled = [key for key in a if is_cancelled(key, list(a))]
    assert all(float(run[key].abs().max()) < 1e-6 for run in (a, b) for key in cancelled)
    compared = [k for k in a if a[k].is_floating_point() and k not in cancelled]
    assert len(compared) > len(a) / 2
    return max(float((a[k] - b[k]).abs().max() / scale(a[k])) for k in compared)


def scale(tensor):
    """Its largest value; 1 for zeros (the last bias of a WGAN critic has no gradient)."""
    return tensor.abs().max() or torch.ones(())


@pytest.mark.parametrize("case", CASES)
def test_the_same_weights_and_losses_on_1_2_and_4_ranks(case, data, here):
    for ranks in (1, 2, 4):
        train(data, f"on{ranks}", ranks, *CASES[case])
    assert len(losses("on1")) == 20
    for other in ("on2", "on4"):
        assert difference("on1", other) < 1e-9
        for mine, theirs in zip(losses("on1"), losses(other), strict=True):
            assert theirs == pytest.approx(mine, rel=1e-9)


def test_plain_batch_norm_under_ddp_fails_that_test(data, here):
    """The wrapper's conversion bypassed: what the original does, and why it matters."""
    for ranks, more in {1: [], 2: ["--bypass_wrapper"]}.items():
        train(data, f"on{ranks}", ranks, *CASES["pix2pix"], *more)
    assert difference("on1", "on2") > 1e-3
