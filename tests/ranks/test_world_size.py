"""A run whose number of ranks changes on the way, in the middle of epochs, is the same run."""

import csv
import os

import pytest
import torch
from conftest import TINY, write_images
from test_parity import difference
from torchrun import train_runs

# 18 images in batches of 6, 5 epochs: 15 steps, in pieces of 5, 5, 2 and 3
RUN = ["--global_batch_size", "6", "--n_epochs", "3", "--n_epochs_decay", "2", "--lr", "0.00002"]
RUN += ["--no_dropout", "--pool_size", "0", "--no_html", "--print_freq", "6"]
CASES = {
    "pix2pix": ["--model", "pix2pix", "--norm", "syncbatch"],
    "cycle_gan": ["--model", "cycle_gan"],
}


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """Each case as a whole on 1 rank, and in parts on 1, 3, 2 and 1; what each job printed."""
    folder = tmp_path_factory.mktemp("runs")
    write_images(folder / "data" / "train", 18, width=64)
    write_images(folder / "data" / "trainA", 18)
    write_images(folder / "data" / "trainB", 11)
    before = os.getcwd()
    os.chdir(folder)
    first, second, third, fourth = [], [], [], []
    for case, argv in CASES.items():
        start = " ".join(["--dataroot", "data", *TINY, *RUN, *argv])
        more = f"--name {case}_parts --continue_train --gpu_ids -1"
        first.append(f"{start} --name {case}_whole")
        first.append(f"{start} --name {case}_parts --stop_after 5")
        second.append(f"{more} --stop_after 5")
        third.append(f"{more} --stop_after 2")
        fourth.append(more)
    jobs = zip((1, 3, 2, 1), (first, second, third, fourth), strict=True)
    yield [train_runs(ranks, *lines) for ranks, lines in jobs]
    os.chdir(before)


def test_a_run_continues_where_it_stopped_with_the_batch_size_it_had(printed):
    on_1, on_3, on_2, on_1_again = printed
    assert on_1.count("stopped by SIGTERM and saved, after 30 images") == len(CASES)
    assert on_3.count("so far on 1 rank, now on 3, 6 images in a batch of all") == len(CASES)
    assert on_3.count("epoch 2, image 12 of 18, 30 images in all") == len(CASES)
    assert on_3.count("batch size 2 each, 6 in all") == len(CASES)
    assert on_2.count("so far on 3 ranks, now on 2") == len(CASES)
    assert on_2.count("batch size 3 each, 6 in all") == len(CASES)
    assert on_1_again.count("so far on 2 ranks, now on 1, 6 images in a batch") == len(CASES)


@pytest.mark.parametrize("case", CASES)
def test_1_then_3_then_2_then_1_rank_is_1_rank(case, printed):
    runs = [f"{case}_whole", f"{case}_parts"]
    apart = difference(*runs)
    print(f"{case}: {apart:.1e}")
    assert apart < 1e-9
    assert rows(runs[0]) == rows(runs[1]) == list(range(6, 91, 6))
    states = [torch.load(f"checkpoints/{name}/latest_train_state.pth") for name in runs]
    moments = [state["objects"]["optimizers.0"]["state"] for state in states]
    for index, moment in moments[0].items():
        other = moments[1][index]
        assert torch.equal(moment["step"], other["step"])
        scale = moment["exp_avg_sq"].abs().max()
        assert (moment["exp_avg_sq"] - other["exp_avg_sq"]).abs().max() <= 1e-9 * scale + 1e-30


def rows(name):
    return [int(r["total_iters"]) for r in csv.DictReader(open(f"checkpoints/{name}/losses.csv"))]
