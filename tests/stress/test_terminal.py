"""What a run says never ends it: its terminal closes, its pipe's reader ends, its disk is full."""

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY, write_images
from torchrun import ROOT, launcher

FULL = Path("/dev/full")
PROGRAM = str(ROOT / "train.py")
LONG = ["--n_epochs", "100000", "--no_html"]  # saves only when it is stopped


@pytest.fixture
def argv(here):
    write_images(here / "data" / "train", 4, width=64)
    return ["--dataroot", "data", "--name", "n", "--model", "pix2pix", *TINY]


def start(ranks):
    return [*launcher(ranks), PROGRAM] if ranks > 1 else [sys.executable, PROGRAM]


def until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def steps():
    log = Path("checkpoints/n/losses.csv")
    return log.read_text().count("\n") - 1 if log.exists() else 0


def assert_saved():
    state = torch.load("checkpoints/n/latest_train_state.pth", weights_only=True)
    assert state["progress"]["total_iters"] >= 3


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_terminal_that_closes(ranks, argv):
    """The kernel sends SIGHUP; from then on every write to the terminal fails (EIO)."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [*start(ranks), *argv, *LONG],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    os.set_blocking(ours, False)

    def trains():  # a terminal that nobody reads would stop it
        try:
            os.read(ours, 65536)
        except BlockingIOError:
            pass
        return steps() >= 3 or process.poll() is not None

    try:
        until(trains)
        os.close(ours)
        status = process.wait(60)
    finally:
        process.kill()
    assert ranks > 1 or status == 128 + signal.SIGHUP
    assert_saved()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_reader_that_ends_by_the_same_interrupt(ranks, argv):
    """`train.py 2>&1 | tee log` and Ctrl-C, which goes to both."""
    command = shlex.join([*start(ranks), *argv, *LONG]) + " 2>&1 | tee log"
    process = subprocess.Popen(["bash", "-c", command], start_new_session=True)
    try:
        until(lambda: steps() >= 3 or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()
    assert_saved()


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("where", [f">{FULL} 2>&1", ">&- 2>&-"])
def test_streams_that_take_nothing(where, argv):
    """A full disk under stdout and stderr, or no streams at all: trained and saved."""
    program = shlex.join([*start(1), *argv, "--n_epochs", "1", "--n_epochs_decay", "0"])
    done = subprocess.run(["bash", "-c", f"exec {program} {where}"], timeout=90)
    assert done.returncode == 0
    assert_saved()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks there for what is loaded")
@pytest.mark.parametrize("program", ["train.py", "test.py"])
def test_ctrl_c_during_the_imports_leaves_no_traceback(program, here):
    command = [sys.executable, str(ROOT / program), "--dataroot", "none"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text())
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and said == ("", "")
