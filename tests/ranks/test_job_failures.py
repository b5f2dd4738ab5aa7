"""The whole program under torchrun: what it refuses, says and writes, and how a job ends."""

import csv
import os
import re
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import TINY, TWO_EPOCHS, write_images
from jobs import IN_PROC, WITH_PLUG_IN, job, stat
from torchrun import ROOT, torchrun

import train

PROGRAM = ROOT / "train.py"
TORCHRUNS_OWN = 1  # it prints a traceback of itself when a rank has failed


def pairs(folder, count):
    write_images(folder / "train", count, width=64)
    return folder


def sets(folder, count_A, count_B):
    write_images(folder / "trainA", count_A)
    write_images(folder / "trainB", count_B)
    return folder


def arguments(data, *argv, name="n", model="pix2pix"):
    return ["--dataroot", str(data), "--name", name, "--model", model, *TINY, *argv]


def counters(name="n"):
    """(epoch, images in it, images in all) of each row that was logged."""
    with open(f"checkpoints/{name}/losses.csv") as file:
        rows = list(csv.DictReader(file))
    return [(int(row["epoch"]), int(row["iters"]), int(row["total_iters"])) for row in rows]


def files(name="n"):
    folder = Path("checkpoints", name)
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def weights(name, net="G"):
    return torch.load(f"checkpoints/{name}/latest_net_{net}.pth", weights_only=True)


def tracebacks(text):
    return text.count("Traceback (most recent call last)")


# ---- refusal ---------------------------------------------------------------------------------


def test_batch_norm_that_was_given_is_refused_once_and_first(here, tmp_path):
    """Before data or networks: the folder of the dataset does not even exist."""
    done = torchrun(2, PROGRAM, *arguments(tmp_path / "nowhere", "--norm", "batch"))
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert output.count("--norm batch on 2 ranks would normalise") == 1
    assert output.count("train.py: error:") == 1 and "nowhere" not in output
    assert tracebacks(output) == TORCHRUNS_OWN
    assert re.search(r"Root Cause(.*\n)*?.*exitcode +: 2 ", output), output
    assert list(here.iterdir()) == []
    statuses = {int(status) for status in re.findall(r"exitcode +: (-?\d+)", output)}
    assert statuses <= {2, -signal.SIGTERM}  # torchrun ends those who did not get that far


RANK_1_HAS_MORE = """
import os, sys
if os.environ["RANK"] == "1":
    sys.argv += os.environ["MORE"].split()
"""


@pytest.mark.parametrize("what", ["option", "data"])
def test_ranks_that_were_not_given_the_same_are_refused(what, here, tmp_path, monkeypatch):
    data, other = pairs(tmp_path / "data", 4), pairs(tmp_path / "other", 3)
    more, told = {
        "option": ("--continue_train", "rank 1 has --continue_train True where rank 0 has"),
        "data": (f"--dataroot {other}", "data: rank 1 has 3 samples where rank 0 has 4 samples"),
    }[what]
    monkeypatch.setenv("MORE", more)
    program = tmp_path / "more.py"
    program.write_text(RANK_1_HAS_MORE + WITH_PLUG_IN)
    done = torchrun(2, program, *arguments(data, *TWO_EPOCHS))
    assert done.returncode != 0 and done.stderr.count("error: ") == 1, done.stderr
    assert told in done.stderr and files() <= {"train_opt.txt"}


# ---- training --------------------------------------------------------------------------------


def test_plain_pix2pix_on_4_ranks_reads_and_writes_like_one_process(here, tmp_path):
    """5 images on 4 ranks: steps of 4 and of 1, which 3 repeated ones fill up."""
    data = pairs(tmp_path / "data", 5)
    done = torchrun(4, PROGRAM, *arguments(data, *TWO_EPOCHS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert tracebacks(done.stderr) == 0 and "arning" not in done.stderr
    assert done.stdout.count("becomes syncbatch") == 1
    assert "4 ranks (cpu), batch size 1 each, 4 in all, 5 images" in done.stdout
    lines = Counter(line for line in done.stdout.splitlines() if line.strip())
    assert max(lines.values()) == 1, lines.most_common(3)
    assert counters() == [(1, 4, 4), (1, 5, 5), (2, 4, 9), (2, 5, 10)]
    train.main(arguments(data, *TWO_EPOCHS, name="alone"))
    assert files("n") == files("alone")
    assert list(weights("n")) == list(weights("alone"))


def test_one_process_by_torchrun_is_one_process_and_4_ranks_resume_it(here, tmp_path):
    """3 and 2 images in a batch of 4: the same weights; then 4 ranks, more than images."""
    data = sets(tmp_path / "data", 3, 2)
    first = ["--batch_size", "4", "--n_epochs", "1", "--n_epochs_decay", "0"]
    done = torchrun(1, PROGRAM, *arguments(data, *first, model="cycle_gan"))
    assert done.returncode == 0, done.stdout + done.stderr
    train.main(arguments(data, *first, name="alone", model="cycle_gan"))
    one, alone = weights("n", "G_A"), weights("alone", "G_A")
    assert all(torch.equal(one[key], alone[key]) for key in alone)
    more = ["--continue_train", "--n_epochs", "2", "--n_epochs_decay", "0"]
    done = torchrun(4, PROGRAM, *arguments(data, *more, model="cycle_gan"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "batch size 1 each, 4 in all" in done.stdout
    assert counters() == [(1, 3, 3), (2, 3, 6)]


def test_2_ranks_continue_uneven_sets_where_one_process_stopped(here, tmp_path):
    """5 and 7 images, of which the last of an epoch makes a batch of one: a rank repeats it."""
    data = sets(tmp_path / "data", 5, 7)
    epochs = ["--n_epochs_decay", "0", "--batch_size", "2"]
    train.main(arguments(data, *epochs, "--n_epochs", "1", model="cycle_gan"))
    more = ["--n_epochs", "2", "--continue_train"]
    done = torchrun(2, PROGRAM, *arguments(data, *epochs, *more, model="cycle_gan"))
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = [(2, 2), (4, 4), (6, 6), (7, 7)], [(2, 9), (4, 11), (6, 13), (7, 14)]
    assert counters() == [(1, *n) for n in first] + [(2, *n) for n in second]  # still 2 in all


# ---- failure ---------------------------------------------------------------------------------


def check_the_end(running):
    """It ends by itself and not well, leaves nobody behind, and no file that cannot be read."""
    running.wait(running.ended, seconds=20)
    assert running.process.returncode != 0
    running.wait(lambda: not running.alive(), seconds=12)  # loader workers look every 5 s
    for path in Path("checkpoints/n").glob("*.pth"):
        torch.load(path, weights_only=True)
    return running.output.read_text()


ENDLESS = ["--n_epochs", "100000", "--save_latest_freq", "1", "--num_threads", "2", "--no_html"]


def until_it_trains(running):
    running.wait(lambda: log().count("\n") > 3 or running.ended(), seconds=90)
    running.look()


def until_it_fails(running):
    """What happens after that has its own limit, the start of the processes has not."""
    running.wait(lambda: "rror: " in running.output.read_text() or running.ended(), seconds=90)


@IN_PROC
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_the_job(victim, here, tmp_path):
    data = pairs(tmp_path / "data", 64)
    with job(tmp_path, PROGRAM, *arguments(data, *ENDLESS)) as running:
        until_it_trains(running)
        assert len(running.seen) > 1 + 2  # there are loader workers
        os.kill(running.ranks()[victim], signal.SIGKILL)
        output = check_the_end(running)
    assert "Signal 9 (SIGKILL)" in output
    assert output.count("error: ") <= 1  # the other was ended by torchrun, or missed this one
    if "error: " in output:
        assert f"error: rank {1 - victim} lost the other ranks" in output
    assert tracebacks(output) == TORCHRUNS_OWN
    assert "terminate called" not in output


def log():
    path = Path("checkpoints/n/losses.csv")
    return path.read_text() if path.exists() else ""


@IN_PROC
def test_an_interrupt_ends_the_job_with_one_message_and_a_checkpoint(here, tmp_path):
    """Ctrl-C in a terminal reaches every process, and torchrun passes it on once more."""
    data = pairs(tmp_path / "data", 64)
    with job(tmp_path, PROGRAM, *arguments(data, *ENDLESS)) as running:
        until_it_trains(running)
        for pid in [running.process.pid, *running.ranks().values()]:
            os.kill(pid, signal.SIGINT)
        output = check_the_end(running)
    assert output.count("SIGINT: finishing this step") == 1
    assert output.count("stopped by SIGINT and saved") == 1 and "error: " not in output
    state = torch.load("checkpoints/n/latest_train_state.pth", weights_only=True)
    assert state["progress"]["total_iters"] == counters()[-1][2]
    assert tracebacks(output) == TORCHRUNS_OWN


@IN_PROC
def test_an_image_that_one_rank_cannot_read_ends_the_job_with_one_message(here, tmp_path):
    data = pairs(tmp_path / "data", 4)
    broken = data / "train" / "4.png"  # of rank 1, in the second step
    broken.write_bytes(broken.read_bytes()[:200])
    argv = arguments(data, *ENDLESS, "--serial_batches")
    with job(tmp_path, PROGRAM, *argv) as running:
        until_it_fails(running)
        output = check_the_end(running)
    assert output.count("error: ") == 1
    assert output.count(f"train.py: error: cannot read the image {broken}") == 1
    assert tracebacks(output) == TORCHRUNS_OWN
    assert re.search(r"Root Cause(.*\n)*?.*rank +: 1 .*\n.*exitcode +: 2 ", output), output
    assert counters() == [(1, 2, 2)]
    assert output.count("saved after 2 images; to continue: torchrun") == 1
    assert saved_images() == 2


def saved_images():
    state = torch.load("checkpoints/n/latest_train_state.pth", weights_only=True)
    return state["progress"]["total_iters"]


@IN_PROC
def test_a_killed_worker_of_the_loader_loses_nothing(here, tmp_path):
    data = pairs(tmp_path / "data", 64)
    never = [*ENDLESS[:2], *ENDLESS[-3:]]  # saves
    with job(tmp_path, PROGRAM, *arguments(data, *never)) as running:
        until_it_trains(running)
        ranks = running.ranks().values()
        workers = [pid for pid in running.seen if (stat(pid) or " 0")[1] in ranks]
        os.kill(workers[-1], signal.SIGKILL)
        until_it_fails(running)
        output = check_the_end(running)
    assert output.count("error: ") == 1 and tracebacks(output) == TORCHRUNS_OWN
    assert re.search(r"error: loading images in \d processes failed", output), output
    assert saved_images() == counters()[-1][2] > 0


HANGS = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from data.aligned_dataset import AlignedDataset
get = AlignedDataset.__getitem__
AlignedDataset.__getitem__ = lambda self, i: get(self, i) if i < 5 else time.sleep(600)
"""


@IN_PROC
def test_a_signal_is_heard_while_the_loader_hangs(here, tmp_path):
    data = pairs(tmp_path / "data", 8)
    program = tmp_path / "hangs.py"
    program.write_text(HANGS + WITH_PLUG_IN)
    argv = arguments(data, *ENDLESS[:2], "--num_threads", "1", "--serial_batches", "--no_html")
    with job(tmp_path, program, *argv, ranks=1) as running:
        running.wait(lambda: log().count("\n") == 1 + 5 or running.ended(), seconds=90)
        running.look()
        os.kill(running.process.pid, signal.SIGTERM)
        running.wait(running.ended, seconds=20)
    assert running.process.returncode == 128 + signal.SIGTERM, running.output.read_text()
    assert "stopped by SIGTERM and saved, after 5 images" in running.output.read_text()
    assert saved_images() == 5


NO_END = """
import time
import torch.distributed as dist
dist.destroy_process_group = lambda: time.sleep(600)  # as NCCL's with a collective that never comes
"""


@IN_PROC
def test_a_rank_that_fails_does_not_wait_for_the_process_group_to_end(here, tmp_path):
    data = pairs(tmp_path / "data", 4)
    broken = data / "train" / "4.png"
    broken.write_bytes(broken.read_bytes()[:200])
    program = tmp_path / "without_end.py"
    program.write_text(NO_END + WITH_PLUG_IN)
    argv = arguments(data, *ENDLESS, "--serial_batches")
    with job(tmp_path, program, *argv, ranks=3) as running:
        until_it_fails(running)
        output = check_the_end(running)
    assert output.count("error: ") == 1
    assert f"error: cannot read the image {broken}" in output


MODEL = """
import os

from models.template_model import TemplateModel


class StumblingModel(TemplateModel):
    steps = 0

    def optimize_parameters(self):
        self.steps += 1
        if os.environ["RANK"] == "1" and self.steps == 2:
            raise ValueError("stumbled")
        super().optimize_parameters()
"""


@IN_PROC
def test_an_exception_on_one_rank_ends_the_job_with_its_traceback(here, tmp_path):
    data = pairs(tmp_path / "data", 4)
    (tmp_path / "stumbling_model.py").write_text(MODEL)
    program = tmp_path / "with_plug_in.py"
    program.write_text(WITH_PLUG_IN)
    with job(tmp_path, program, *arguments(data, *ENDLESS, model="stumbling")) as running:
        until_it_fails(running)
        output = check_the_end(running)
    assert output.count("ValueError: stumbled") == 1 and "stumbling_model.py" in output
    assert tracebacks(output) == TORCHRUNS_OWN + 1
    assert "error: " not in output  # the other one only lost it
    assert counters() == [(1, 2, 2)]
