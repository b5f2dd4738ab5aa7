import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, TWO_EPOCHS

import test
import train


def argv(data):
    return ["--dataroot", str(data), "--name", "n", "--model", "pix2pix", "--use_wandb"]


def test_without_wandb_one_line_names_the_pip_command(aligned, here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SystemExit):  # before anything is built, and with all other problems
        train.main([*argv(aligned), *TINY, "--seed", "-1"])
    error = capsys.readouterr().err
    assert "--use_wandb" in error and "pip install wandb" in error and "--seed -1" in error


class Recorder:
    """Stands in for the module wandb, and for its runs."""

    def __init__(self):
        self.started, self.logged, self.finished = [], [], 0

    def init(self, **arguments):
        self.started.append(arguments)
        return SimpleNamespace(log=self.logged.append, finish=self.finish)

    def Image(self, image):
        return image.shape

    def finish(self):
        self.finished += 1


def test_a_run_is_told_its_name_options_losses_and_images(aligned, here, monkeypatch):
    wandb = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    more = ["--display_freq", "5", "--wandb_project_name", "mine", "--print_freq", "5"]
    train.main([*argv(aligned), *TINY, *TWO_EPOCHS, *more])
    (start,) = wandb.started
    assert (start["project"], start["name"], start["config"]["ngf"]) == ("mine", "n", "4")
    state = torch.load("checkpoints/n/latest_train_state.pth", weights_only=True)
    assert (start["id"], start["resume"]) == (state["run"], "allow")
    train.main([*argv(aligned), "--continue_train", "--n_epochs", "2", "--gpu_ids", "-1"])
    assert wandb.started.pop()["id"] == state["run"]
    del wandb.logged[4:]
    losses = {"G_GAN", "G_L1", "D_real", "D_fake", "total_iters"}
    images = {"real_A", "fake_B", "real_B", "total_iters"}
    assert [log.keys() for log in wandb.logged] == [losses, images] * 2
    assert [log["total_iters"] for log in wandb.logged] == [5, 5, 10, 10]
    assert wandb.logged[1]["fake_B"] == (32, 32, 3)
    assert wandb.finished == 2


def test_a_wandb_that_fails_later_is_logged_once_and_training_continues(
    aligned, here, monkeypatch, caplog
):
    def no_network(values):
        raise ConnectionError("no route to host")

    wandb = Recorder()
    wandb.init = lambda **_: SimpleNamespace(log=no_network, finish=wandb.finish)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    train.main([*argv(aligned), *TINY, *TWO_EPOCHS])
    (record,) = [r for r in caplog.records if r.name == "image_translation"]
    assert "no route to host" in record.getMessage() and wandb.finished == 1
    assert (here / "checkpoints/n/2_net_G.pth").exists()


def in_time(condition, seconds=20):
    """Whether it comes true soon: wandb writes in a process of its own."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def holds(run, name):
    """Whether the log of an offline run has a value of this name."""
    return any(name in log.read_bytes() for log in run.glob("*.wandb"))


def test_training_and_testing_log_to_an_offline_run(aligned, here, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed (requirements-optional.txt)")
    for name, value in {"MODE": "offline", "SILENT": "true", "DIR": str(here)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    train.main([*argv(aligned), *TINY, *TWO_EPOCHS, "--display_freq", "2"])
    test.main(argv(aligned))
    assert in_time(lambda: len(list((here / "wandb").glob("offline-run-*"))) == 2)
    runs = list((here / "wandb").glob("offline-run-*"))
    assert in_time(lambda: all(holds(run, b"real_A") for run in runs))
    assert in_time(lambda: sum(holds(run, b"G_L1") for run in runs) == 1)  # training
    images = "files/media/images/fake_B*.png"
    assert in_time(lambda: all(list(run.glob(images)) for run in runs))
