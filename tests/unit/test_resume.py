"""A run that was interrupted, anywhere, and continued is the run that was not, bit for bit."""

import csv
import re
from pathlib import Path

import pytest
import torch
from conftest import TINY, write_images
from same import assert_same_run

import models
import train
from options.train_options import TrainOptions
from util import checkpoint, distributed
from util.checkpoint import train_state
from util.training.progress import Progress

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
    write_images(root / "train", 5, width=64)
    write_images(root / "trainA", 4)
    write_images(root / "trainB", 3)
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
    """Train with a death after each of these numbers of steps, continuing from the last save."""
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


def test_a_run_that_is_over_says_so_and_ends_well(data, here, capsys):
    """A script that always continues must not fail when all is done."""
    argv = command(data, "n", "--model", "template", "--n_epochs", "1", "--n_epochs_decay", "0")
    train.main(argv)
    before = Path("checkpoints/n/latest_train_state.pth").read_bytes()
    with pytest.raises(SystemExit) as exit:
        train.main(["--name", "n", "--continue_train", "--gpu_ids", "-1"])
    assert exit.value.code == 0
    assert "n is trained to the end, epoch 1" in capsys.readouterr().out
    assert Path("checkpoints/n/latest_train_state.pth").read_bytes() == before


def test_a_new_run_under_an_old_name_keeps_the_old_ones_last_checkpoint(data, here, capsys):
    argv = command(data, "n", "--model", "template", "--n_epochs", "1", "--n_epochs_decay", "0")
    train.main(argv)
    folder = Path("checkpoints/n")
    before = {f.name: f.read_bytes() for f in folder.glob("latest_*")}
    table = (folder / "losses.csv").read_bytes()
    train.main([*argv, "--seed", "5"])
    said = capsys.readouterr().out
    assert "--continue_train" in said and "'previous'" in said
    kept = {f.name: f.read_bytes() for f in folder.glob("previous_*.pth")}
    assert kept == {name.replace("latest", "previous"): content for name, content in before.items()}
    run = torch.load(folder / "previous_train_state.pth", weights_only=True)["run"]
    assert (folder / f"losses_{run}.csv").read_bytes() == table
    assert f", run {run}" in (folder / "loss_log.txt").read_text()


def logged(folder):
    """The run and the images seen of each row in the table, and of each entry of the page."""
    rows = list(csv.DictReader((folder / "losses.csv").open()))
    entries = re.findall(r'"total_iters": (\d+), "losses"', (folder / "web/data.js").read_text())
    return [(row["run"], int(row["total_iters"])) for row in rows], [int(e) for e in entries]


def test_a_forgotten_continue_train_costs_no_trained_state_and_mixes_no_logs(data, here, capsys):
    """Twice: the second one must not put its few steps in the place of what was trained."""
    whole = command(data, "n", "--model", "template", "--n_epochs", "2", "--n_epochs_decay", "0")
    whole = [word for word in whole if word != "--no_html"]
    train.main([*whole, "--name", "whole", "--n_epochs", "3"])
    train.main(whole)
    folder = Path("checkpoints/n")
    for seed in "56":
        train.main([*whole, "--n_epochs", "1", "--seed", seed])
    state = torch.load(folder / "previous_train_state.pth", weights_only=True)
    assert state["progress"]["epoch"] == 3
    lines = (folder / "loss_log.txt").read_text()
    other = (folder / "latest_net_G.pth").read_bytes()
    capsys.readouterr()
    train.main(["--name", "n", "--epoch", "previous", "--continue_train", "--n_epochs", "3",
                "--gpu_ids", "-1"])  # fmt: skip
    assert "'replaced'" in capsys.readouterr().out
    assert (folder / "replaced_net_G.pth").read_bytes() == other
    images = [seen for _, seen in logged(Path("checkpoints/whole"))[0]]
    assert logged(folder) == ([(state["run"], seen) for seen in images], images[10:])
    assert (folder / "loss_log.txt").read_text().startswith(lines)
    weights = [
        Path(name, "latest_net_G.pth").read_bytes() for name in ("checkpoints/whole", folder)
    ]
    assert weights[0] == weights[1]


def test_the_weights_of_an_epoch_are_files_of_their_own(data, here):
    """Other programs may write latest_net_G.pth in place; a link would change the epoch's too."""
    train.main(
        command(data, "n", "--model", "template", "--n_epochs", "1", "--n_epochs_decay", "0")
    )
    latest, epoch = (Path(f"checkpoints/n/{tag}_net_G.pth") for tag in ("latest", "1"))
    assert latest.read_bytes() == epoch.read_bytes() and not latest.samefile(epoch)


def test_the_same_command_again_and_again_on_other_ranks(data, here, monkeypatch, capsys):
    """--batch_size 4 on one rank is a global batch of 4, and stays it: 2 each, then 4, then 2."""
    argv = command(data, "n", "--model", "template", "--batch_size", "4", "--n_epochs", "1")
    train.main([*argv, "--n_epochs_decay", "0"])
    for ranks in (2, 1, 2):
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        monkeypatch.setattr(distributed, "from_main", lambda name, compute: compute())
        opt = TrainOptions().parse([*argv, "--continue_train", "--n_epochs", "9"])
        assert (opt.batch_size, opt.global_batch_size) == (4 // ranks, 4)
        assert opt.first_batch_size == 4


def test_lists_are_options_of_the_run_too(data, here, tmp_path, monkeypatch):
    (tmp_path / "listed_model.py").write_text(LISTED)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    argv = command(data, "n", "--model", "listed", "--n_epochs", "1", "--n_epochs_decay", "0")
    train.main([*argv, "--weights", "5", "6"])
    on = ["--name", "n", "--continue_train", "--n_epochs", "2", "--gpu_ids", "-1"]
    assert TrainOptions().parse(on).weights == [5.0, 6.0]
    with pytest.raises(SystemExit):
        TrainOptions().parse([*on, "--weights", "7", "8"])


def test_the_training_state_is_opened_once(data, here, monkeypatch):
    argv = command(data, "n", "--model", "template", "--n_epochs", "1", "--n_epochs_decay", "0")
    train.main(argv)
    opened, load = [], train_state.load
    monkeypatch.setattr(
        train_state, "load", lambda path, **more: opened.append(path) or load(path, **more)
    )
    train.main([*argv, "--continue_train", "--n_epochs", "2"])
    assert opened == [checkpoint.state_path("checkpoints/n", "latest")]


LISTED = """
from models.template_model import TemplateModel


class ListedModel(TemplateModel):
    @staticmethod
    def modify_commandline_options(parser, is_train):
        parser = TemplateModel.modify_commandline_options(parser, is_train)
        parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 2.0])
        return parser
"""
