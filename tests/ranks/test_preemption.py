"""Signals save and end a run; jobs that are started again continue; the result is the same."""

import os
import re
import shlex
import signal
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import TINY, write_images
from jobs import IN_PROC, WITH_PLUG_IN, job
from same import assert_same_run
from torchrun import ROOT, torchrun

import train

PROGRAM = ROOT / "train.py"
# 48 steps on one rank and no save but at the end
LENGTH = ["--n_epochs", "3", "--n_epochs_decay", "1", "--save_epoch_freq", "99"]
SLOW = ["--netG", "resnet_9blocks", "--ngf", "8"]  # or it would be over before the signal


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "train", 12, width=64)
    return folder


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """`whole(ranks)`: the folder of the run that nobody stopped, trained once."""
    folder = tmp_path_factory.mktemp("whole")

    @cache
    def trained(ranks):
        argv = [*command(data, str(ranks)), "--checkpoints_dir", str(folder)]
        if ranks == 1:
            train.main(argv)
        else:
            done = torchrun(ranks, PROGRAM, *argv)
            assert done.returncode == 0, done.stderr
        return folder / str(ranks)

    return trained


def command(data, name, *more):
    argv = ["--dataroot", str(data), "--name", name, "--model", "pix2pix", *TINY, *LENGTH, *SLOW]
    return [*argv, "--no_html", *more]


def steps(name="n"):
    path = Path("checkpoints", name, "losses.csv")
    return path.read_text().count("\n") - 1 if path.exists() else 0


def saved(name="n"):
    state = torch.load(f"checkpoints/{name}/latest_train_state.pth", weights_only=True)
    return state["progress"]["total_iters"]


def until_it_steps(running, least=3):
    running.wait(lambda: steps() >= least or running.ended(), seconds=90)
    running.look()


def continued_from_the_command_in(output):
    """Run what the last line says; the words before train.py aside."""
    told = re.search(r"to continue: (.*)", output)[1]
    words = shlex.split(told)
    argv = words[words.index(str(PROGRAM)) + 1 :]
    ranks = int(re.search(r"nproc_per_node=(\d)", told)[1]) if "torchrun" in told else 1
    argv += ["--gpu_ids", "-1"]
    if ranks == 1:
        train.main(argv)
    else:
        done = torchrun(ranks, PROGRAM, *argv)
        assert done.returncode == 0, done.stdout + done.stderr


@IN_PROC
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_to_every_process_saves_and_ends_the_run(name, data, whole, here, tmp_path):
    number = getattr(signal, name)
    with job(tmp_path, PROGRAM, *command(data, "n", "--num_threads", "2"), ranks=1) as running:
        until_it_steps(running)
        os.killpg(running.process.pid, number)  # its loader workers, too
        running.wait(running.ended, seconds=30)
        running.wait(lambda: not running.alive(), seconds=12)
        output = running.output.read_text()
    assert running.process.returncode == 128 + number, output
    assert output.count(f"stopped by {name} and saved") == 1
    assert "Traceback" not in output and "error" not in output
    assert saved() == steps() < 48
    continued_from_the_command_in(output)
    assert_same_run(whole(1), "checkpoints/n")


ENDLESS = """
import time

from models.template_model import TemplateModel


class EndlessModel(TemplateModel):
    def optimize_parameters(self):
        print("in the step", flush=True)
        while True:
            time.sleep(0.1)
"""


@IN_PROC
def test_a_second_interrupt_leaves_at_once(data, here, tmp_path):
    """A step that never ends, in a model of one's own."""
    (tmp_path / "endless_model.py").write_text(ENDLESS)
    program = tmp_path / "with_plug_in.py"
    program.write_text(WITH_PLUG_IN)
    with job(tmp_path, program, *command(data, "n"), "--model", "endless", ranks=1) as running:
        running.wait(lambda: "in the step" in running.output.read_text(), seconds=60)
        os.kill(running.process.pid, signal.SIGINT)
        running.wait(lambda: "finishing this step" in running.output.read_text(), seconds=20)
        os.kill(running.process.pid, signal.SIGINT)  # torchrun's, of the same Ctrl-C
        time.sleep(1.5)
        assert not running.ended()
        os.kill(running.process.pid, signal.SIGINT)
        running.wait(running.ended, seconds=20)
        output = running.output.read_text()
    assert running.process.returncode == 130
    assert output.count("interrupted\n") == 1 and "Traceback" not in output


@IN_PROC
def test_sigterm_to_torchrun(data, whole, here, tmp_path):
    with job(tmp_path, PROGRAM, *command(data, "n")) as running:
        until_it_steps(running)
        os.kill(running.process.pid, signal.SIGTERM)
        assert running.wait(state_is_there, seconds=30) < 30
        running.wait(running.ended, seconds=40)
        output = running.output.read_text()
    assert output.count("stopped by SIGTERM and saved") == 1
    assert saved() == 2 * steps() < 48
    continued_from_the_command_in(output)
    assert_same_run(whole(2), "checkpoints/n")


def state_is_there():
    return Path("checkpoints/n/latest_train_state.pth").exists()


@IN_PROC
def test_a_signal_to_one_rank_stops_all_after_the_same_step(data, here, tmp_path):
    with job(tmp_path, PROGRAM, *command(data, "n")) as running:
        until_it_steps(running)
        os.kill(running.ranks()[1], signal.SIGUSR1)
        running.wait(running.ended, seconds=40)
        output = running.output.read_text()
    assert output.count("stopped by SIGUSR1 and saved") == 1
    assert saved() == 2 * steps() < 48


# ---- jobs that are started again ---------------------------------------------------------------


def restarts(running):
    told = "torchrun has started this job again; it continues from latest"
    return running.output.read_text().count(told)


@IN_PROC
def test_torchrun_starts_a_job_again_that_goes_on_by_itself(data, whole, here, tmp_path):
    argv = command(data, "n", "--save_latest_freq", "6")
    with job(tmp_path, PROGRAM, *argv, options=["--max-restarts=3"]) as running:
        for victim, least in enumerate((8, 16)):
            until_it_steps(running, least)
            os.kill(running.ranks()[victim], signal.SIGKILL)
            again = lambda victim=victim: restarts(running) > victim  # noqa: E731
            running.wait(lambda again=again: again() or running.ended(), seconds=90)
        running.wait(running.ended, seconds=120)
        output = running.output.read_text()
    assert running.process.returncode == 0, output
    assert restarts(running) == 2
    assert_same_run(whole(2), "checkpoints/n")


@IN_PROC
def test_a_restart_before_the_first_save_starts_over_and_leaves_an_older_run_alone(
    data, whole, here, tmp_path
):
    """The state there is an older run's, with another seed: continuing from it would be wrong."""
    train.main(command(data, "n", "--seed", "7"))
    Path("checkpoints/n/losses.csv").unlink()
    with job(tmp_path, PROGRAM, *command(data, "n"), options=["--max-restarts=1"]) as running:
        until_it_steps(running)
        os.kill(running.ranks()[1], signal.SIGKILL)
        running.wait(running.ended, seconds=120)
        output = running.output.read_text()
    assert running.process.returncode == 0, output
    assert "started this job again" not in output
    assert_same_run(whole(2), "checkpoints/n")


def test_a_requeued_slurm_job_goes_on_by_itself(data, here, monkeypatch, capsys):
    short = [*command(data, "n"), "--n_epochs", "1", "--n_epochs_decay", "0"]
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    train.main(short)
    longer = [*command(data, "n"), "--n_epochs", "2", "--n_epochs_decay", "0"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    capsys.readouterr()
    train.main(longer)
    assert "SLURM has started this job again; it continues from latest" in capsys.readouterr().out
    assert steps() == 24
    monkeypatch.setenv("SLURM_JOB_ID", "78")  # another job, requeued as well, starts its own run
    train.main(longer)
    assert "started this job again" not in capsys.readouterr().out
