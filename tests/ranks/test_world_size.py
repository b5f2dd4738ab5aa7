"""A run whose number of ranks changes on the way, in the middle of epochs, is the same run."""

import csv
import subprocess

import pytest
import torch
from conftest import TINY, write_pictures
from test_parity import HARNESS, difference
from torchrun import launcher

# 16 images in batches of 4, 5 epochs: 20 steps, in pieces of 6, 7 and 7
RUN = ["--global_batch_size", "4", "--n_epochs", "3", "--n_epochs_decay", "2", "--lr", "0.00002"]
RUN += ["--no_dropout", "--pool_size", "0", "--no_html", "--print_freq", "4"]
CASES = {
    "pix2pix": ["--model", "pix2pix", "--norm", "syncbatch"],
    "cycle_gan": ["--model", "cycle_gan"],
}


@pytest.fixture
def data(here):
    write_pictures(here / "data" / "train", 16, width=64)
    write_pictures(here / "data" / "trainA", 16)
    write_pictures(here / "data" / "trainB", 11)


def in_float64(ranks, line, stop_after=None):
    stop = ["--stop_after", str(stop_after)] if stop_after else []
    command = [*launcher(ranks), str(HARNESS), *stop, line]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (done.returncode == 0) == (stop_after is None), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("case", CASES)
def test_1_then_2_then_1_rank_is_1_rank(case, data):
    argv = " ".join(["--dataroot", "data", *TINY, *RUN, *CASES[case]])
    in_float64(1, f"{argv} --name whole")
    first = in_float64(1, f"{argv} --name parts", stop_after=6)
    assert "stopped by SIGTERM and saved, after 24 images" in first
    second = in_float64(2, "--name parts --continue_train --gpu_ids -1", stop_after=7)
    assert "epoch 2, image 8 of 16, 24 images in all" in second
    assert "so far on 1 rank, now on 2, 4 images in a batch of all" in second
    assert "batch size 2 each, 4 in all" in second
    third = in_float64(1, "--name parts --continue_train --gpu_ids -1")
    assert "so far on 2 ranks, now on 1" in third and "batch size 4" in third
    apart = difference("whole", "parts")
    print(f"{case}: {apart:.1e}")
    assert apart < 1e-9
    assert rows("whole") == rows("parts") == list(range(4, 81, 4))
    states = [torch.load(f"checkpoints/{n}/latest_train_state.pth") for n in ("whole", "parts")]
    moments = [state["objects"]["optimizers.0"]["state"] for state in states]
    for index, moment in moments[0].items():
        other = moments[1][index]
        assert torch.equal(moment["step"], other["step"])
        scale = moment["exp_avg_sq"].abs().max()
        assert (moment["exp_avg_sq"] - other["exp_avg_sq"]).abs().max() <= 1e-9 * scale + 1e-30


def rows(name):
    return [int(r["total_iters"]) for r in csv.DictReader(open(f"checkpoints/{name}/losses.csv"))]
