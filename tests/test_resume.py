"""A run that was interrupted, anywhere, and continued is the run that was not, bit for bit."""

from pathlib import Path

import pytest
from conftest import TINY, write_pictures
from same import assert_same_run

import train
from util import checkpoint
from util.progress import Progress

EPOCHS = ["--n_epochs", "2", "--n_epochs_decay", "2", "--load_size", "40"]
CASES = {
    "pix2pix": ["--model", "pix2pix", "--norm", "syncbatch"],  # dropout on
    "pool": ["--model", "pix2pix", "--pool_size", "3", "--gan_mode", "wgangp", "--batch_size", "2"],
    "cycle_gan": ["--model", "cycle_gan"],  # a pool of 50, the identity loss
    "bf16": ["--model", "cycle_gan", "--precision", "bf16"],
    "fp16": ["--model", "pix2pix", "--precision", "fp16"],  # with a gradient scaler
    "accumulate": [
        "--model",
        "cycle_gan",
        "--batch_size",
        "2",
        "--accumulate",
        "2",
        "--checkpoint_activations",
    ],
    "plateau": ["--model", "pix2pix", "--lr_policy", "plateau"],
    "cosine": ["--model", "cycle_gan", "--lr_policy", "cosine", "--lambda_identity", "0"],
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program handles it."""


@pytest.fixture
def data(tmp_path):
    """Pairs and two sets of different sizes."""
    root = tmp_path / "data"
    write_pictures(root / "train", 5, width=64)
    write_pictures(root / "trainA", 4)
    write_pictures(root / "trainB", 3)
    return root


def command(data, name, *more):
    return ["--dataroot", str(data), "--name", name, *TINY, *EPOCHS, *more]


@pytest.fixture
def dying_after(monkeypatch):
    """Call it with a number of steps: the next run ends in the middle of the one after them."""
    original = Progress.advance

    def set_up(steps):
        left = [steps]

        def advance(self):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            original(self)

        monkeypatch.setattr(Progress, "advance", advance)

    return set_up


def interrupted(argv, name, deaths, dying_after):
    """Train with a death after each of these numbers of steps, going on from the last save."""
    for steps in [*deaths, 10**6]:
        dying_after(steps)
        saved = checkpoint.state_path(f"checkpoints/{name}", "latest").exists()
        more = ["--continue_train"] * saved
        try:
            train.main([*argv, *more])
        except Killed:
            continue
        return


@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_run_is_the_uninterrupted_one(case, data, here, dying_after):
    """Deaths in the middle of epochs, right after a save, and before the first one."""
    more = [*CASES[case], "--save_latest_freq", "3", "--print_freq", "2", "--save_epoch_freq", "3"]
    train.main(command(data, "whole", *more))
    interrupted(command(data, "broken", *more), "broken", [1, 4, 3, 6, 2], dying_after)
    assert_same_run("checkpoints/whole", "checkpoints/broken")


def test_a_death_at_every_step(data, here, dying_after):
    more = ["--model", "template", "--save_latest_freq", "2", "--print_freq", "3"]
    more += ["--n_epochs", "1", "--n_epochs_decay", "1"]
    train.main(command(data, "whole", *more))
    for step in range(10):
        name = f"broken_{step}"
        argv = command(data, name, *more)
        interrupted(argv, name, [step], dying_after)
        assert_same_run("checkpoints/whole", f"checkpoints/{name}")


def test_without_the_state_the_runs_differ(data, here, dying_after):
    """The check that these tests can fail: weights alone are what the original resumes from."""
    more = [*CASES["cycle_gan"], "--save_epoch_freq", "2"]
    train.main(command(data, "whole", *more))
    dying_after(9)
    with pytest.raises(Killed):
        train.main(command(data, "broken", *more))
    dying_after(10**6)
    for state in Path("checkpoints/broken").glob("*_train_state.pth"):
        state.unlink()
    train.main(command(data, "broken", *more, "--continue_train", "--epoch_count", "3"))
    with pytest.raises(AssertionError):
        assert_same_run("checkpoints/whole", "checkpoints/broken")
