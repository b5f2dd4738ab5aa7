"""A disk that is full, read-only or gone during a save: what was saved before stays whole."""

import argparse
import builtins
import errno
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import TINY, write_images
from jobs import WITHOUT_CAPABILITIES
from same import difference
from torchrun import ROOT

import train
from data.aligned_dataset import AlignedDataset
from models.base_model import BaseModel
from options.train_options import TrainOptions
from util import checkpoint, distributed, files
from util.checkpoint import train_state
from util.errors import UserError
from util.training.progress import Progress
from util.training.saver import Saver

FOLDER = Path("checkpoints/n")
OPTIONS = ["--dataroot", "none", "--name", "n", "--model", "template", *TINY, "--keep_last", "1"]
PAGE = 4096  # bytes: the least by which a tmpfs grows
LINK = os.link


class SmallModel(BaseModel):
    """Two networks of one weight each, an optimizer with a momentum, and a counter."""

    def __init__(self, opt):
        super().__init__(opt)
        self.model_names = ["G", "D"]
        self.netG, self.netD = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 2)
        self.steps = 0
        for net in (self.netG, self.netD):
            self.optimizers.append(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))

    def set_input(self, input):
        pass

    def forward(self):
        pass

    def optimize_parameters(self):
        self.steps += 1
        (self.netG(torch.ones(1, 1)) + self.netD(torch.ones(1, 1))).sum().backward()
        for optimizer in self.optimizers:
            optimizer.step()


@cache
def options():
    return TrainOptions().parse(OPTIONS)


def trained(steps):
    """The saver of a model that was trained for so many steps."""
    opt = options()
    torch.manual_seed(0)
    model = SmallModel(opt)
    model.setup(opt)
    saver = Saver(opt, model)
    for _ in range(steps):
        model.optimize_parameters()
    return saver


def save(saver, *tags):
    epoch = saver.model.steps
    images = {"images": 1, "position": 0, "total_iters": epoch}
    saver.save(list(tags) or [str(epoch), "latest"], {"epoch": epoch + 1, **images})


def on_disk():
    """Tag to name to content, for each file of each checkpoint."""
    found = {}
    for path in sorted(FOLDER.glob("*.pth")):
        tag, name = path.name.split("_", 1)
        found.setdefault(tag, {})[name] = torch.load(path, weights_only=True)
    return found


class Disk:
    """Two models that were trained for 1 and 2 steps, and what each leaves when it saves.

    `fill` puts only the first one's checkpoint on the disk, `check` looks at what the second
    one's save has made of that.
    """

    def __init__(self):
        FOLDER.mkdir(parents=True, exist_ok=True)
        self.old, self.new = trained(1), trained(2)
        self.contents = {}
        for tag, saver in (("1", self.old), ("2", self.new)):
            save(saver)
            self.contents[tag] = on_disk()[tag]
            assert on_disk().keys() == {tag, "latest"}
            if saver is self.old:
                self.files = {path.name: path.read_bytes() for path in FOLDER.glob("1_*.pth")}

    def fill(self):
        """As the first one's save has left it: a file of latest is another name of one of 1."""
        shutil.rmtree(FOLDER)
        FOLDER.mkdir()
        for name, content in self.files.items():
            (FOLDER / name).write_bytes(content)
            LINK(FOLDER / name, FOLDER / name.replace("1_", "latest_"))

    def try_to_save(self, *tags):
        """The message; None if it went well."""
        try:
            save(self.new, *tags)
        except UserError as error:
            return str(error)
        return None

    def check(self, message):
        """Whatever happened: every file is of one of the two, and a run goes on from latest."""
        there, (old, new) = on_disk(), self.contents.values()
        for tag, checkpoint_ in there.items():
            for name, content in checkpoint_.items():
                equal = [difference(content, c[name]) is None for c in (old, new)]
                wanted = {"1": [True, False], "2": [False, True]}.get(tag)
                assert equal == wanted if wanted else sum(equal) == 1, (tag, name)
        assert there["latest"].keys() == old.keys()
        if there.get("1", {}).keys() != old.keys():  # pruned, so the newer one must be whole
            assert there["2"].keys() == new.keys() and difference(there["latest"], new) is None
        if message is None:
            assert len(there) == 2 and difference(there["latest"], new) is None
        else:
            assert str(FOLDER) in message and "\n" not in message
        self.go_on()

    def go_on(self):
        """A model that starts from the state is the one that wrote it."""
        state = checkpoint.load_train_state(FOLDER, "latest")
        fresh = trained(0).model
        train_state.restore(fresh, state)
        source = {1: self.old, 2: self.new}[state["progress"]["total_iters"]].model
        assert fresh.steps == source.steps
        assert torch.equal(fresh.netG.weight, source.netG.weight)
        assert torch.equal(fresh.netD.weight, source.netD.weight)
        moments = [m.optimizers[0].state_dict()["state"] for m in (fresh, source)]
        assert difference(*moments) is None


# ---- every operation of a save, in turn --------------------------------------------------------


class FailingDisk:
    """Counts what asks something of the disk; from the n-th on, or at the n-th only, it fails.

    What frees space works again after the first failure, as on a real disk.
    """

    def __init__(self, monkeypatch, first, only_once):
        self.first, self.only_once, self.count = first, only_once, 0
        self.failed = []
        for module, name in ((os, "fsync"), (os, "link"), (os, "replace"), (os, "open")):
            monkeypatch.setattr(module, name, self.failing(getattr(module, name), name))
        unlink = self.failing(Path.unlink, "unlink", frees=True)
        monkeypatch.setattr(Path, "unlink", unlink)
        monkeypatch.setattr(files, "open", self.open, raising=False)

    def ask(self, name, frees=False):
        self.count += 1
        again = not self.only_once and not frees and self.count > self.first
        if self.count == self.first or again:
            self.failed.append(name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def failing(self, function, name, frees=False):
        def ask_first(*args, **kwargs):
            self.ask(name, frees)
            return function(*args, **kwargs)

        return ask_first

    def open(self, path, mode):
        self.ask("open")
        return File(self, path) if "w" in mode else builtins.open(path, mode)


class File(io.BufferedWriter):
    """Half of what is written when the disk is full still gets there."""

    def __init__(self, disk, path):
        super().__init__(io.FileIO(path, "w"))
        self.disk = disk

    def write(self, data):
        try:
            self.disk.ask("write")
        except OSError:
            super().write(bytes(data)[: len(data) // 2])
            raise
        return super().write(data)

    def flush(self):
        if not self.closed:
            self.disk.ask("flush")
        super().flush()


WAYS = {  # tags, whether there are links, whether it fails only once
    "once": (["2", "latest"], True, True),
    "from then on": (["2", "latest"], True, False),
    "without links": (["2", "latest"], False, False),
    "amid an epoch": (["latest"], True, True),
}


@pytest.mark.parametrize(("tags", "links", "only_once"), WAYS.values(), ids=WAYS)
def test_a_save_that_fails_at_any_operation(tags, links, only_once, here, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the disk of the test may be slow
    disk, first, seen = Disk(), 0, set()
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    while True:
        first += 1
        disk.fill()
        with monkeypatch.context() as patch:
            failing = FailingDisk(patch, first, only_once)
            message = disk.try_to_save(*tags)
        if not failing.failed:
            break
        seen.add(failing.failed[0])
        disk.check(message)
        assert message is None or "No space left on device" in message, message
        assert message or only_once and failing.failed == ["link"] or _in_cleaning(failing)
    assert message is None and on_disk().keys() == {"1" if tags == ["latest"] else "2", "latest"}
    copying = {"link", "unlink"} if len(tags) > 1 else set()
    assert seen == {"open", "write", "flush", "fsync", "replace"} | copying
    assert first > 60


def _in_cleaning(failing):
    """Removing a temporary name that is not there may fail without a harm."""
    return failing.failed == ["unlink"]


def _no_links(*_):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


# ---- real limits: a disk that grows by a page, and a quota ---------------------------------------


def in_child(function, *before):
    """Call a function of this file in another process; what it has printed."""
    places = [str(ROOT / part) for part in ("", "tests", "tests/stress")]
    code = f"import sys; sys.path[:0] = {places!r}; import test_disk; "
    done = subprocess.run(
        [*before, sys.executable, "-c", f"{code}test_disk.{function.__name__}()"],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def can_mount():
    try:
        mount = "mount -t tmpfs -o size=64k none /tmp && mount -o remount,size=68k /tmp"
        done = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True)
        return done.returncode == 0
    except OSError:
        return False


SMALL_DISKS = pytest.mark.skipif(
    not can_mount(), reason="mounting a tmpfs needs root, unshare (util-linux) and mount"
)


def size_of_disk(bytes_):
    subprocess.run(["mount", "-o", f"remount,size={bytes_}", "checkpoints"], check=True)


def used():
    disk = os.statvfs("checkpoints")
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def with_one_more_page_each_time():
    """Runs in its own mount namespace."""
    os.mkdir("checkpoints")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", "checkpoints"], check=True)
    disk, message, pages = Disk(), "", 0
    while message is not None:
        disk.fill()
        size_of_disk(used() + pages * PAGE)
        message = disk.try_to_save()
        size_of_disk(1 << 22)
        disk.check(message)
        assert message is None or "No space left on device" in message, message
        pages += 1
    print("sizes that were too small:", pages - 1)


@SMALL_DISKS
def test_a_disk_that_is_full_at_any_page(here):
    said = in_child(with_one_more_page_each_time, "unshare", "-m")
    assert int(said.split()[-1]) > 5  # a page at least for each file of a checkpoint


def with_a_larger_quota_each_time():
    """A limit on the size of a file is a quota that every user can have."""
    import resource

    disk, limit = Disk(), 0
    largest = max(path.stat().st_size for path in FOLDER.iterdir())
    while True:
        disk.fill()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        message = disk.try_to_save()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        disk.check(message)
        assert (message is None) == (limit >= largest), (limit, largest, message)
        if message is None:
            return
        assert "File too large" in message, message
        limit += 509


@pytest.mark.skipif(os.name != "posix", reason="no such limits")
def test_a_quota(here):
    in_child(with_a_larger_quota_each_time)


# ---- a whole run -------------------------------------------------------------------------------


def command(tmp_path, *more):
    write_images(tmp_path / "train", 3, width=64)
    more = ["--no_html", "--num_threads", "0", *more]
    return ["--dataroot", str(tmp_path), "--name", "n", "--model", "template", *TINY, *more]


ENDLESS = ["--n_epochs", "1000", "--save_latest_freq", "1", "--save_by_iter"]
FILL = """
mkdir checkpoints && mount -t tmpfs -o size=3m none checkpoints || exit 99
"$@"
status=$?
cp -r checkpoints kept
exit $status
"""


@SMALL_DISKS
def test_a_run_that_fills_the_disk_ends_and_goes_on_elsewhere(tmp_path, here):
    program = [sys.executable, str(ROOT / "train.py"), *command(tmp_path, *ENDLESS)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", FILL, "sh", *program],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr
    assert "train.py: error: cannot write checkpoints/n/" in done.stderr
    assert "No space left on device" in done.stderr
    kept = sorted(Path("kept/n").glob("*.pth"))
    assert len(kept) > 4
    assert all(torch.load(path, weights_only=True) for path in kept)
    steps = torch.load("kept/n/latest_train_state.pth")["progress"]["total_iters"]
    assert Path(f"kept/n/iter_{steps}_train_state.pth") in kept
    epochs = ["--n_epochs", str(steps // 3 + 1), "--n_epochs_decay", "0"]
    train.main(command(tmp_path, *epochs, "--continue_train", "--checkpoints_dir", "kept"))
    log = Path("kept/n/losses.csv").read_text().splitlines()[1:]
    counts = [int(line.split(",")[2]) for line in log]
    assert counts == list(range(1, (steps // 3 + 1) * 3 + 1))


def run_into(trouble, at_step, argv, monkeypatch, capsys):
    """Train, with `trouble()` after some step; the one message in which that ends."""
    original, steps = Progress.advance, []

    def advance(self):
        steps.append(1)
        if len(steps) == at_step:
            trouble()
        original(self)

    monkeypatch.setattr(Progress, "advance", advance)
    with pytest.raises(SystemExit) as exit:
        distributed.run(lambda: train.main(argv))
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.count("error:") == 1 and "Traceback" not in error
    assert len(steps) < 10  # training does not go on pretending
    return error


@pytest.mark.parametrize("more", [[], ["--print_freq", "1000"]], ids=["log", "checkpoint"])
def test_the_folder_vanishes_in_the_middle_of_a_run(more, tmp_path, here, monkeypatch, capsys):
    argv = command(tmp_path, "--n_epochs", "1000", "--save_latest_freq", "2", *more)
    error = run_into(lambda: shutil.rmtree("checkpoints"), 5, argv, monkeypatch, capsys)
    assert "cannot write checkpoints/n/" in error
    assert "the folder checkpoints/n is not there" in error and "--checkpoints_dir" in error
    assert not Path("checkpoints").exists()


def read_only_in_the_middle():
    """Runs without the rights of root."""
    steps = []

    def advance(self, original=Progress.advance):
        steps.append(1)
        if len(steps) == 5:
            os.chmod("checkpoints/n", 0o555)
        original(self)

    Progress.advance = advance
    with pytest.raises(SystemExit) as exit:
        distributed.run(lambda: train.main(json.loads(os.environ["ARGUMENTS"])))
    print(exit.value.code)


@pytest.mark.skipif(
    bool(WITHOUT_CAPABILITIES) and not shutil.which("setpriv"),
    reason="root may write anywhere, and setpriv (util-linux) is not here to give that up",
)
def test_the_folder_becomes_read_only(tmp_path, here, monkeypatch):
    argv = command(tmp_path, "--n_epochs", "1000", "--save_latest_freq", "2")
    monkeypatch.setenv("ARGUMENTS", json.dumps(argv))
    assert in_child(read_only_in_the_middle, *WITHOUT_CAPABILITIES).split()[-1] == "2"
    state = torch.load("checkpoints/n/latest_train_state.pth", weights_only=True)
    assert state["progress"]["total_iters"] == 4
    assert len(list(Path("checkpoints/n").glob("latest_net_*.pth"))) == 1


# ---- --keep_last ---------------------------------------------------------------------------------


def tags():
    """Those of the checkpoints on the disk, all of which are whole."""
    found = {path.name.split("_net_")[0] for path in FOLDER.glob("*_net_G.pth")}
    states = FOLDER.glob("*_train_state.pth")
    assert found == {path.name.removesuffix("_train_state.pth") for path in states}
    return found


def save_as(tag, keep_last=None):
    saver = trained(1)
    saver.opt = argparse.Namespace(**vars(saver.opt) | {"keep_last": keep_last})
    save(saver, *filter(None, [tag, "latest"]))


@pytest.mark.parametrize("kind", ["", "iter_"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_last_are_kept_of_each_kind(kind, count, here):
    """9 and 10 are not in the order of the alphabet."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    others = [{"": "iter_5", "iter_": "5"}[kind], "best"]
    for tag in others:
        save_as(tag)
    for number in range(8, 13):
        save_as(f"{kind}{number}", count)
        kept = range(max(8, number - count + 1), number + 1)
        assert tags() == {f"{kind}{n}" for n in kept} | {*others, "latest"}


def test_what_is_pruned_is_older_and_whole_or_not(here):
    """A run that was started anew at epoch 3 does not know of 5; nor does it count it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for tag in "125":
        save_as(tag)
    save_as(None, 1)  # latest alone
    assert tags() == {"1", "2", "5", "latest"}
    save_as("3", 2)
    assert tags() == {"2", "3", "5", "latest"}
    checkpoint.state_path(FOLDER, "2").unlink()
    save_as("4", 2)
    assert tags() == {"3", "4", "5", "latest"}


def test_a_whole_run_keeps_the_last(tmp_path, here):
    epochs = ["--n_epochs", "3", "--n_epochs_decay", "2", "--save_epoch_freq", "1"]
    train.main(command(tmp_path, *epochs, "--keep_last", "2"))
    assert tags() == {"4", "5", "latest"}


# ---- memory that workers and training share -----------------------------------------------------


def train_until_shared_memory_is_full():
    """Runs in its own mount namespace; it is full once no earlier batch is left to be freed."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", "/dev/shm"], check=True)
    get, fetch_next = AlignedDataset.__getitem__, Progress._fetch_next
    waiting_for_the_sixth = multiprocessing.get_context("fork").Event()

    def tell_and_fetch_next(self):
        if self.total_iters == 5:
            waiting_for_the_sixth.set()
        fetch_next(self)

    def fill_at_the_sixth(self, index):
        if index == 5:
            assert waiting_for_the_sixth.wait(60)
            with pytest.raises(OSError), open("/dev/shm/full", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(PAGE))
        return get(self, index)

    AlignedDataset.__getitem__, Progress._fetch_next = fill_at_the_sixth, tell_and_fetch_next
    argv = ["--dataroot", ".", "--name", "n", "--model", "pix2pix", *TINY, "--no_html"]
    with pytest.raises(UserError, match="/dev/shm") as error:
        train.main([*argv, "--num_threads", "1", "--serial_batches"])
    assert "\n" not in str(error.value)


@SMALL_DISKS
def test_full_shared_memory_loses_no_step(here):
    write_images(here / "train", 12, width=64)
    assert "saved after 5 images" in in_child(train_until_shared_memory_is_full, "unshare", "-m")
    assert checkpoint.load_train_state(FOLDER, "latest")["progress"]["position"] == 5
