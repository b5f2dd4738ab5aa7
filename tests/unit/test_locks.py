"""One program at a time in a folder: another one is refused, and told who has it."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import TINY
from torchrun import ROOT

import test
import train
from scripts import download
from util import files
from util.errors import UserError
from util.files import atomic_write, locked

pytest.importorskip("fcntl", reason="files cannot be locked here")

# hold a lock, start a child as a loader does, and say so; the child outlives this process
HOLDER = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from util.files import locked
with locked(Path(sys.argv[1]), "it", "mend it"):
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    """Starts a program that holds a lock."""
    started = []

    def start(path):
        command = [sys.executable, "-c", HOLDER, str(path)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def take(path):
    with locked(path, "it", "mend it"):
        return path.read_text()


def test_a_lock_names_its_holder_and_ends_with_it_however_it_ends(hold, tmp_path):
    path = tmp_path / "new" / ".lock"
    holder = hold(path)
    with pytest.raises(UserError, match=rf"it is in use by process {holder.pid} on .*mend it"):
        take(path)
    holder.kill()  # its child lives on, as a loader's worker may
    holder.wait()
    assert take(path).startswith(f"process {os.getpid()} on ")
    assert not path.exists()


def test_a_lock_is_never_what_a_link_leads_to(tmp_path):
    path, other = tmp_path / ".lock", tmp_path / "notes.txt"
    other.write_text("mine")
    path.symlink_to(other)
    with pytest.raises(UserError, match=rf"cannot write {path}.*mend it"):
        take(path)
    assert other.read_text() == "mine" and path.is_symlink()


def test_a_lock_that_another_has_replaced_is_not_taken(tmp_path, monkeypatch):
    """Its holder removed the file, and a third has made a new one, since this one opened it."""
    path = tmp_path / ".lock"
    lock = files._lock

    def replaced(file):
        path.unlink()
        path.write_text("process 3")
        return lock(file)

    monkeypatch.setattr(files, "_lock", replaced)
    with pytest.raises(UserError, match="it is in use"):
        take(path)
    assert path.read_text() == "process 3"


def test_training_testing_and_downloads_refuse_a_folder_in_use(aligned, here, hold, capsys):
    argv = ["--dataroot", str(aligned), "--name", "n", "--model", "pix2pix", *TINY]
    train.main([*argv, "--n_epochs", "1", "--n_epochs_decay", "0"])
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()}
    hold(here / "checkpoints/n/.lock")
    for more in ([], ["--continue_train", "--n_epochs", "2"]):
        with pytest.raises(UserError, match="checkpoints/n is in use by process .* --name"):
            train.main([*argv, *more])
    hold(here / "results/n/test_latest/.lock")
    with pytest.raises(UserError, match="test_latest is in use .* --results_dir"):
        test.main([a for a in argv if a not in TINY[-2:]])
    hold(here / "mini/.horse2zebra.lock")
    with pytest.raises(UserError, match="horse2zebra is in use .* --out"):
        download.main(["cyclegan-dataset", "horse2zebra", "--out", "mini"])
    for path, when in before.items():
        assert path.stat().st_mtime_ns == when, path


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b"first, and longer")
        second.write(b"second")
    assert path.read_bytes() == b"first, and longer"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("é" * 125 + "x.png")
    assert len(os.fsencode(path.name)) == 255
    with atomic_write(path, durable=True) as file:
        file.write(b"x")
    assert os.listdir(tmp_path) == [path.name]
