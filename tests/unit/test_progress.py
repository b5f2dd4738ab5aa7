"""util/training/progress.py: times by a clock that the test moves, and what is written when."""

import csv
import json
import re
import sys
import threading
import time
from copy import copy
from pathlib import Path

import pytest
import torch
from conftest import TINY, TWO_EPOCHS

import train
from models.base_model import BaseModel
from options.train_options import TrainOptions
from util import checkpoint
from util.errors import UserError
from util.reports.training_page import TrainingPage
from util.training.progress import Progress, Stopwatch


class Clock:
    """A clock for `time.perf_counter` that stands still until somebody spends time."""

    def __init__(self):
        self.now = 1000.0

    def spend(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


# the stopwatch


def test_stopwatch_splits_time_into_waiting_and_the_rest(clock):
    watch = Stopwatch()
    assert watch.total == watch.share_waiting == 0
    clock.spend(3)
    watch.add_time(waiting=True)
    clock.spend(4)
    watch.add_time(waiting=False)
    clock.spend(2)
    watch.add_time(waiting=False)
    clock.spend(1)
    watch.add_time(waiting=True)
    assert (watch.total, watch.waited) == (3 + 4 + 2 + 1, 3 + 1)
    assert watch.share_waiting == pytest.approx(0.4)
    start = copy(watch)
    clock.spend(5)
    watch.add_time(waiting=True)
    watch.images += 3
    added = watch.since(start)
    assert (added.total, added.waited, added.images, added.share_waiting) == (5, 5, 3, 1)


# the progress of a run whose every part takes a known time


class SlowLoader:
    """Four images, one by one; each is waited for."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.shares = clock, seconds, []

    def __len__(self):
        return 4

    def set_epoch(self, epoch, start):
        assert start == 0

    def save_kinds(self, folder):
        pass

    def shown(self, visual):
        return -1.0, 1.0

    def waiting_advice(self, share):
        self.shares.append(share)
        return f"advice for {share:.0%}"

    def __iter__(self):
        for image in range(4):
            self.clock.spend(self.seconds)
            yield image


class SlowModel(BaseModel):
    """A model without networks; its steps, losses, visuals and saves take known times."""

    def __init__(self, opt, clock, step, losses=0, visuals=0, saving=0):
        super().__init__(opt)
        self.clock, self.step = clock, step
        self.losses, self.visuals, self.saving = losses, visuals, saving
        self.loss_names, self.visual_names = ["G"], ["fake"]
        self.loss_G, self.fake = 0.5, torch.zeros(1, 3, 4, 4)

    def set_input(self, input):
        pass

    def forward(self):
        pass

    def optimize_parameters(self):
        self.clock.spend(self.step)

    def get_current_losses(self):
        self.clock.spend(self.losses)
        return super().get_current_losses()

    def compute_visuals(self):
        self.clock.spend(self.visuals)

    def save_networks(self, tag):
        self.clock.spend(self.saving)


def run(clock, data, times, *argv):
    """The loop of train.py: `data` seconds for an image, and the times of the model.

    Returns the shares of waiting for which advice was asked.
    """
    argv = ["--dataroot", "none", "--name", "n", "--model", "template", *TINY, *argv]
    opt = TrainOptions().parse(argv)
    folder = checkpoint.folder(opt)
    model, loader = SlowModel(opt, clock, **times), SlowLoader(clock, data)
    with checkpoint.locked_folder(folder, ""), Progress(opt, model, loader) as progress:
        for epoch in progress.epochs():
            for batch in progress.batches(epoch):
                model.set_input(batch)
                model.optimize_parameters()
                progress.advance()
            progress.end_epoch()
    return loader.shares


def rows(name="n"):
    return list(csv.DictReader(Path("checkpoints", name, "losses.csv").open()))


def epoch_lines(capsys):
    return re.findall(r"epoch (\d+)/\d+: (.*)", capsys.readouterr().out)


EVERY_OTHER = ["--print_freq", "2", "--display_freq", "2", "--save_latest_freq", "2"]


def test_only_the_loader_is_waited_for(clock, here, capsys):
    """3 s for an image and 2 s for a step; losses 5 s, visuals 7 s and saves 11 s on top."""
    times = {"step": 2, "losses": 5, "visuals": 7, "saving": 11}
    run(clock, 3, times, *EVERY_OTHER, "--n_epochs", "1", "--n_epochs_decay", "0")
    assert [float(row["data"]) for row in rows()] == [3, 3]
    assert clock.now == 1000 + 4 * (3 + 2) + 2 * (5 + 7 + 11) + 11  # the last epoch saves, too
    ((_, line),) = epoch_lines(capsys)
    assert line.startswith("0:01:17, 0.05 images/s, 16% of it waiting for data")  # 12 of 77 s


def test_the_logs_hold_seconds_per_image(clock, here):
    run(clock, 3, {"step": 2}, *EVERY_OTHER, "--n_epochs", "1", "--n_epochs_decay", "1")
    times = [(float(row["time"]), float(row["data"])) for row in rows()]
    assert times == [(2, 3)] * 4
    assert "time: 2.000, data: 3.000) G: 0.500" in Path("checkpoints/n/loss_log.txt").read_text()


def test_time_left_is_that_of_the_images_left_at_the_rate_so_far(clock, here, capsys):
    """5 s for each of 4 images in 3 epochs: 40 s, 20 s, nothing."""
    run(clock, 3, {"step": 2}, "--n_epochs", "2", "--n_epochs_decay", "1", "--save_epoch_freq", "1")
    left = [line.split("time left ")[1] for _, line in epoch_lines(capsys)]
    assert left == ["0:00:40", "0:00:20", "0:00:00"]


def test_advice_follows_the_first_epoch_on_the_first_rank_alone(clock, here, monkeypatch, capsys):
    argv = ["--n_epochs", "2", "--n_epochs_decay", "0", "--use_wandb"]
    assert run(clock, 3, {"step": 2}, *argv[:-1]) == [3 / 5]
    assert len(re.findall("peak memory.*\nadvice for 60%", capsys.readouterr().out)) == 1
    monkeypatch.setenv("RANK", "1")
    assert run(clock, 3, {"step": 2}, "--name", "other", *argv) == []  # rank 1 asks for no advice
    assert not Path("checkpoints/other").exists() and capsys.readouterr().out == ""


def test_time_left_of_a_continued_run_knows_its_own_rate_only(clock, here, capsys):
    run(clock, 3, {"step": 2}, "--n_epochs", "2", "--n_epochs_decay", "0")
    capsys.readouterr()
    run(clock, 3, {"step": 6}, "--n_epochs", "4", "--n_epochs_decay", "0", "--continue_train")
    left = {epoch: line.split("time left ")[1] for epoch, line in epoch_lines(capsys)}
    assert left == {"3": "0:00:36", "4": "0:00:00"}  # 4 images of 9 s


# what a whole run writes, and when


def train_on(data, name, *more):
    argv = ["--dataroot", str(data), "--name", name, "--model", "template", *TINY, *TWO_EPOCHS]
    train.main([*argv, *more])


def state(tag):
    return checkpoint.load_train_state(Path("checkpoints/n"), tag)


def test_a_save_amid_an_epoch_continues_it_and_one_at_its_end_starts_the_next(aligned, here):
    more = ["--save_by_iter", "--save_latest_freq", "3", "--save_epoch_freq", "1"]
    train_on(aligned, "n", *more)  # 5 images: 3 is in epoch 1, 6 and 9 in epoch 2
    tags = ["iter_3", "1", "iter_6", "iter_9", "2", "latest"]
    assert [state(tag)["progress"]["epoch"] for tag in tags] == [1, 2, 2, 2, 3, 3]
    assert [state(tag)["progress"]["position"] for tag in tags] == [3, 0, 1, 4, 0, 0]
    assert [state(tag)["progress"]["total_iters"] for tag in tags] == [3, 5, 6, 9, 10, 10]


def entries():
    """What the page of the run was told, line by line."""
    lines = Path("checkpoints/n/web/data.js").read_text().splitlines()
    return [json.loads(line[4:-2]) for line in lines if line.startswith("add(")]


RARELY = ["--display_freq", "1000", "--update_html_freq", "1000", "--print_freq", "1000"]


@pytest.mark.parametrize("kind", ["losses", "visuals"])
@pytest.mark.parametrize(("freq", "iters"), [(RARELY, [5, 10]), (EVERY_OTHER, [2, 4, 6, 8, 10])])
def test_losses_and_images_are_logged_in_every_epoch(kind, freq, iters, aligned, here):
    """5 images, 2 epochs: at the end of an epoch only what was not logged within it."""
    train_on(aligned, "n", *freq)
    assert [e["total_iters"] for e in entries() if kind in e] == iters
    assert [int(row["total_iters"]) for row in rows()] == iters
    assert len(list(Path("checkpoints/n/web/images").glob("epoch00[12]_output.png"))) == 2


def without_wandb(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    return ["--use_wandb"]


def with_unreadable_images(data, monkeypatch):
    for path in (data / "train").iterdir():
        path.write_text("no image")
    return []


@pytest.mark.parametrize(
    "more", [["--lr", "0.1"], ["--continue_train", "--n_epochs", "3"]], ids=["new", "on"]
)
@pytest.mark.parametrize("fail", [without_wandb, with_unreadable_images])
def test_a_start_that_fails_leaves_the_earlier_run_alone(fail, more, aligned, here, monkeypatch):
    train_on(aligned, "n")
    folder = here / "checkpoints" / "n"
    kept = [folder / f for f in ("losses.csv", "web/data.js", "train_opt.json")]
    kept += folder.glob("latest_*")
    before = [path.read_bytes() for path in kept]
    with pytest.raises((UserError, SystemExit)):
        train_on(aligned, "n", *more, *fail(aligned, monkeypatch))
    assert [path.read_bytes() for path in kept] == before and len(kept) == 5


def test_images_of_the_page_are_written_while_training_goes_on(aligned, here, monkeypatch):
    writers, save = set(), TrainingPage._save

    def noting(self, *image):
        writers.add(threading.current_thread())
        return save(self, *image)

    monkeypatch.setattr(TrainingPage, "_save", noting)
    argv = ["--dataroot", str(aligned), "--name", "n", "--model", "pix2pix", *TINY, *TWO_EPOCHS]
    train.main([*argv, "--display_freq", "1", "--update_html_freq", "1"])
    assert writers and threading.main_thread() not in writers
    assert len(list(here.glob("checkpoints/n/web/images/*.png"))) == 2 * 3
