"""What stops a run between two steps: a loss that is not finite, or a signal."""

import math
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY, write_images
from jobs import WITH_PLUG_IN
from torch.utils._python_dispatch import TorchDispatchMode
from torchrun import ranks, torchrun

import models
import train
from util import distributed
from util.errors import UserError
from util.training.interrupts import StepMonitor, StopWaiting, _are_bad

# A model that goes wrong in the way, at the step and on the rank that SICK says.
MODEL = """
import os

import torch
from models.template_model import TemplateModel


class SickModel(TemplateModel):
    steps = 0

    def __init__(self, opt):
        super().__init__(opt)
        self.way, self.at, self.rank = os.environ["SICK"].split()
        if self.way == "none":
            self.loss_names = []
        elif self.way == "float":
            self.loss_names = ["G", "extra"]
            self.loss_extra = 0.5

    def optimize_parameters(self):
        super().optimize_parameters()
        self.steps += 1
        if [str(self.steps), os.environ.get("RANK", "0")] == [self.at, self.rank]:
            getattr(self, self.way)()

    def tensor(self):
        self.loss_G = self.loss_G * float("nan")

    def infinite(self):
        self.loss_G = self.loss_G * float("inf")

    def float(self):
        self.loss_extra = float("nan")

    def weights(self):
        with torch.no_grad():
            next(self.netG.parameters()).view(-1)[0] = float("inf")

    none = weights
"""


class Kernels(TorchDispatchMode):
    """Counts what a GPU would be asked to compute."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        views = ("aten::detach", "aten::view", "aten::_unsafe_view", "aten::alias")
        self.count += function._schema.name not in views
        return function(*args, **(kwargs or {}))


def test_looking_at_the_losses_costs_a_gpu_few_kernels():
    losses = [torch.zeros((), device="meta", dtype=torch.bfloat16) for _ in range(8)]
    with Kernels() as kernels:
        flags = _are_bad(losses)
    assert flags.device.type == "meta" and flags.shape == (1,) and flags.dtype == torch.float32
    assert kernels.count < 10


@pytest.fixture
def sick(tmp_path, monkeypatch):
    (tmp_path / "sick_model.py").write_text(MODEL)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    yield lambda way, at, rank=0: monkeypatch.setenv("SICK", f"{way} {at} {rank}")
    sys.modules.pop("models.sick_model", None)


@pytest.fixture
def data(tmp_path):
    write_images(tmp_path / "data" / "train", 4, width=64)
    return tmp_path / "data"


def command(data, *more):
    argv = ["--dataroot", str(data), "--name", "n", "--model", "sick", *TINY, "--serial_batches"]
    return [*argv, "--save_latest_freq", "2", "--save_by_iter", "--n_epochs", "3", *more]


def contents():
    return {path.name: path.read_bytes() for path in Path("checkpoints/n").glob("*.pth")}


def failure(argv, capsys):
    """The one message in which training ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        distributed.run(lambda: train.main(argv))
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.count("error:") == 1 and "Traceback" not in error
    return error


WAYS = {"tensor": "loss G is nan", "infinite": "loss G is inf", "float": "loss extra is nan"}


@pytest.mark.parametrize(
    ("way", "print_freq"), [("tensor", "1"), ("infinite", "1000"), ("float", "1000")]
)
def test_a_bad_loss_stops_the_run(way, print_freq, sick, data, here, capsys):
    """The 6th image is the 2nd of epoch 2; a checkpoint is due after it."""
    sick(way, at=6)
    train.main(command(data, "--n_epochs", "1", "--n_epochs_decay", "0"))
    before = contents()
    assert "iter_4_net_G.pth" in before
    argv = command(data, "--continue_train", "--print_freq", print_freq)
    error = failure(argv, capsys)
    assert f"epoch 2, image 2 of 4: {WAYS[way]} in the batch of {data}/train/2.png." in error
    assert "--lr" in error and "--continue_train" in error
    assert contents() == before
    sick(way, at=0)
    train.main([*argv, "--n_epochs", "2", "--n_epochs_decay", "0"])


def test_all_images_of_a_small_batch_are_named_and_few_of_a_large_one(sick, data, here, capsys):
    write_images(data / "train", 6, width=64)
    sick("tensor", at=2)
    error = failure(command(data, "--batch_size", "3"), capsys)
    assert f"in the batch of {', '.join(f'{data}/train/{i}.png' for i in (4, 5, 6))}." in error
    sick("tensor", at=1)
    error = failure(command(data, "--batch_size", "6"), capsys)
    assert error.count(".png") == 4 and "4.png, …." in error


@pytest.mark.parametrize("way", ["weights", "none"])
def test_bad_weights_do_not_take_the_place_of_good_ones(way, sick, data, here, capsys):
    """In the step before a save, of a model with finite losses and of one without any."""
    sick(way, at=6)
    argv = command(data, "--save_epoch_freq", "100")
    train.main([*argv, "--n_epochs", "1", "--n_epochs_decay", "0"])
    before = contents()
    error = failure([*argv, "--continue_train"], capsys)
    assert "weights of netG are not finite" in error and "were not saved" in error
    assert "--continue_train" in error and "--lr" in error
    assert contents() == before


def test_a_model_without_losses_trains(sick, data, here):
    sick("none", at=0)
    train.main(command(data, "--n_epochs", "1", "--n_epochs_decay", "0"))
    assert "latest_net_G.pth" in contents()


# ---- several ranks -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad_rank", ["0", "1"])
def test_a_bad_loss_on_one_of_two_ranks_stops_the_job(bad_rank, sick, data, tmp_path, here):
    """Steps of 2 images: after the first, iter_2; the second one is bad."""
    program = tmp_path / "with_plug_in.py"
    program.write_text(WITH_PLUG_IN)
    sick("tensor", at=2, rank=bad_rank)
    done = torchrun(2, program, *command(data))
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert output.count("error: ") == 1 and output.count("Traceback (most") == 1  # torchrun's
    image = {"0": 3, "1": 4}[bad_rank]
    message = f"epoch 1, image 4 of 4: loss G is nan in the batch of {data}/train/{image}.png."
    assert output.count(message) == 1
    assert re.search(r"Root Cause(.*\n)*?.*exitcode +: 2 ", output), output
    found = contents()
    assert {name.split("_net")[0] for name in found if "_net" in name} == {"iter_2", "latest"}
    assert found["iter_2_net_G.pth"] == found["latest_net_G.pth"]
    assert found["iter_2_train_state.pth"] == found["latest_train_state.pth"]
    state = torch.load("checkpoints/n/latest_train_state.pth", weights_only=True)
    assert state["progress"]["total_iters"] == 2


def after_steps(steps):
    """Runs on a rank: the message after each step, of (losses of rank 0, of rank 1) per step."""
    monitor, heard = StepMonitor(), []
    for number, losses in enumerate(steps):
        mine = losses[distributed.rank()]
        try:
            monitor.after_step(f"step {number}", mine, [f"{distributed.rank()}.png"])
            heard.append(None)
        except UserError as error:
            heard.append(str(error).split(".")[0])
    return heard


def test_all_ranks_hear_of_it_after_the_same_step(tmp_path):
    good, nan = {"G": torch.tensor(1.0), "D": 2.0}, torch.tensor(math.nan)
    steps = [(good, good), (good, {"G": nan, "D": 2.0}), ({"G": nan, "D": math.inf}, good)]
    with ranks(2, tmp_path) as call:
        first, second = call(after_steps, steps)
    assert first == second == [
        None,
        "step 1: loss G is nan in the batch of 1",
        "step 2: loss G is nan, loss D is inf in the batch of 0",
    ]  # fmt: skip


# ---- the monitor alone ---------------------------------------------------------------------------


GOOD = [
    {},
    {"G": 1.0, "n": 3},
    {"G": torch.tensor([1.0])},
    {"G": torch.tensor(3.4e38)},
    {"G": torch.tensor(2), "D": 1.0},
    {"G": torch.tensor(1.0, requires_grad=True)},
]
BAD = [
    {"G": torch.tensor(-math.inf)},
    {"G": math.nan},
    {"D": torch.tensor(1.0), "G": math.inf},
    {"G": torch.tensor([1.0, math.nan])},
    {"G": torch.tensor(math.inf, dtype=torch.float16)},
    {"G": torch.tensor(math.nan, requires_grad=True)},
]


def test_finite_losses_pass_and_others_do_not():
    monitor = StepMonitor()
    for losses in GOOD:
        monitor.after_step("here", losses, [])
    monitor.settle()
    assert monitor.stop == 0
    for losses in BAD:
        with pytest.raises(UserError, match="^here: loss G is -?(nan|inf) in the batch of a.png"):
            StepMonitor().after_step("here", losses, ["a.png"])


@pytest.fixture
def now(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_signal_waits_for_the_end_of_the_step(now, capfd):
    before = signal.getsignal(signal.SIGTERM)
    with StepMonitor() as monitor:
        os.kill(os.getpid(), signal.SIGTERM)
        monitor.after_step("here", {"G": 1.0}, [])
        assert monitor.stop == 0 and "SIGTERM" in capfd.readouterr().err
        assert monitor.agree(trouble=False) is False
        assert monitor.stop == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_ctrl_c_leaves_at_once_but_not_the_copy_that_torchrun_passes_on(now):
    with StepMonitor() as monitor:
        for seconds in (0, 0.5):
            now[0] += seconds
            os.kill(os.getpid(), signal.SIGINT)
        monitor.agree(trouble=False)
        assert monitor.stop == signal.SIGINT
        now[0] += 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            monitor.settle()  # where Python gets to run the handler


def test_an_ignored_signal_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StepMonitor() as monitor:
            os.kill(os.getpid(), signal.SIGHUP)
            monitor.agree(trouble=False)
            assert monitor.stop == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("early", [True, False])
def test_a_signal_ends_the_wait_for_a_batch_and_one_before_it_does_not_let_it_begin(early):
    begun = []
    with StepMonitor() as monitor:
        if early:
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopWaiting), monitor.waiting():
            begun.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        assert begun == ([] if early else [True])
        monitor.agree(trouble=False)
        assert monitor.stop == signal.SIGTERM


def troubles_of_ranks():
    monitor = StepMonitor()
    monitor._signal = [0, signal.SIGTERM, signal.SIGINT][distributed.rank()]
    return monitor.agree(distributed.rank() == 2), monitor.stop


def test_all_ranks_know_the_troubles_and_the_signals_of_each(tmp_path):
    with ranks(3, tmp_path) as call:
        assert call(troubles_of_ranks) == [(True, signal.SIGTERM)] * 3
