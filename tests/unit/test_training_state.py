"""What a run resumes from: all that a model keeps, in plain data, for any number of ranks."""

import enum
import os
import sys
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from conftest import TINY, write_images
from hypothesis import given, settings
from hypothesis import strategies as st
from same import assert_same_run, difference
from torch import nn

import models
import train
from models.base_model import BaseModel
from options.train_options import TrainOptions
from util import checkpoint
from util.checkpoint import files, train_state
from util.errors import UserError
from util.image_pool import ImagePool
from util.training.progress import Progress

# ---- a plug-in with habits of its own ------------------------------------------------------------

HABITS = """
import copy

import numpy as np
import torch
from models.template_model import TemplateModel


class Meter:
    def __init__(self):
        self.values = []

    def state_dict(self):
        return {"values": list(self.values)}

    def load_state_dict(self, state):
        self.values = list(state["values"])


class HabitsModel(TemplateModel):
    '''Whatever it keeps takes part in the loss: lose one of them, and other weights come out.'''

    def __init__(self, opt):
        super().__init__(opt)
        self.steps = 0
        self.ema = copy.deepcopy(self.netG).requires_grad_(False)  # in no list
        self.style = torch.nn.Parameter(torch.zeros(3, 1, 1))  # in no network
        self.second = torch.optim.SGD([self.style], lr=0.1, momentum=0.9)
        self.schedules = {"style": torch.optim.lr_scheduler.StepLR(self.second, 2)}
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
        self.scale = torch.tensor(1.0)
        self.meter, self.mean, self.best, self.warm = Meter(), np.float64(0), None, True
        self.constant = 7

    def optimize_parameters(self):
        self.steps += 1
        self.warm = self.steps < 4
        self.forward()
        self.optimizer.zero_grad()
        self.second.zero_grad()
        average = self.ema(self.data_A) + self.style
        weight = self.steps + self.scale + self.mean + (self.best or 5.0) + 3 * self.warm
        weight = weight + sum(self.meter.values) + self.scaler.get_scale()
        loss = self.criterion(self.output, self.data_B)
        self.loss_G = loss + 0.01 * weight * self.criterion(self.output, average)
        self.scaler.scale(self.loss_G).backward()
        self.scaler.step(self.optimizer)
        self.scaler.step(self.second)
        self.scaler.update()
        self.schedules["style"].step()
        self.keep()

    def keep(self):
        value = self.loss_G.item()
        self.mean = 0.9 * self.mean + 0.1 * np.float64(value)
        self.best = value if self.best is None else min(value, self.best)
        self.scale = self.scale * 0.5 + self.loss_G.detach()
        self.meter.values.append(value)
        for ours, theirs in zip(self.ema.parameters(), self.netG.parameters()):
            ours.lerp_(theirs.detach(), 0.1)
"""


@pytest.fixture
def habits(tmp_path, monkeypatch):
    (tmp_path / "habits_model.py").write_text(HABITS)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    yield
    sys.modules.pop("models.habits_model", None)


@pytest.fixture
def data(tmp_path):
    write_images(tmp_path / "data" / "train", 3, width=64)
    return tmp_path / "data"


def command(data, *more, name="n", model="template"):
    argv = ["--dataroot", str(data), "--name", name, "--model", model, *TINY, "--no_html"]
    return [*argv, *more]


EPOCHS = ["--n_epochs", "2", "--n_epochs_decay", "1", "--lr", "0.01"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program handles it."""


def die_after(steps, argv, monkeypatch):
    original, left = Progress.advance, [steps]

    def advance(self):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        original(self)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Progress, "advance", advance)
        train.main(argv)


@pytest.mark.parametrize("step", [1, 4, 5])
def test_a_plug_in_resumes_with_all_that_it_keeps(step, habits, data, here, monkeypatch):
    more = [*EPOCHS, "--save_latest_freq", "1", "--save_epoch_freq", "1"]
    train.main(command(data, *more, name="whole", model="habits"))
    argv = command(data, *more, name="broken", model="habits")
    die_after(step, argv, monkeypatch)
    train.main([*argv, "--continue_train"])
    assert_same_run("checkpoints/whole", "checkpoints/broken")
    state = torch.load("checkpoints/whole/latest_train_state.pth", weights_only=True)
    assert {"optimizers.0", "netG", "ema", "second", "schedules.style"} <= state["objects"].keys()
    assert {"scaler", "meter"} <= state["ranks"][0]["objects"].keys()
    numbers = state["ranks"][0]["numbers"]
    assert {"steps": 9, "warm": False}.items() <= numbers.items()
    assert {"scale", "mean", "best", "style"} <= numbers.keys() and "constant" not in numbers


# ---- numbers and objects -----------------------------------------------------------------------


class SmallModel(BaseModel):
    """One weight."""

    def __init__(self, opt, **attributes):
        super().__init__(opt)
        self.model_names, self.netG = ["G"], nn.Linear(1, 1, bias=False)
        self.optimizers = [torch.optim.Adam(self.netG.parameters(), lr=0.1)]
        vars(self).update(attributes)

    def set_input(self, input):
        pass

    def forward(self):
        pass

    def optimize_parameters(self):
        self.netG(torch.ones(1, 1)).sum().backward()
        self.optimizers[0].step()


def options(*more):
    return TrainOptions().parse(["--dataroot", "none", "--model", "template", *TINY, *more])


def small(**attributes):
    model = SmallModel(options(), **attributes)
    model.setup(model.opt)
    return model


def through_a_file(state, folder):
    checkpoint.save_train_state(
        folder, "latest", state | {"progress": dict.fromkeys(checkpoint.COUNTERS, 1), "options": {}}
    )
    return checkpoint.load_train_state(folder, "latest")


def collected(model, numbers, folder):
    return through_a_file(train_state.collect(model, numbers, torch.device("cpu")), folder)


NEW_VALUES = {
    "count": (3, 4),
    "rate": (0.5, 0.25),
    "flag": (False, True),
    "tensor": (torch.tensor(1.0), torch.tensor(2.0)),
    "count in a tensor": (torch.tensor(1), torch.tensor(2)),
    "numpy": (np.float64(1), np.float64(2)),
    "numpy float32": (np.float32(1), np.float32(2)),
    "numpy int": (np.int64(1), np.int64(2)),
    "none before": (None, 3),
    "infinite": (0.0, float("inf")),
    "parameter": (nn.Parameter(torch.zeros(2, 3)), torch.ones(2, 3)),
}


@pytest.mark.parametrize("case", NEW_VALUES)
def test_a_number_that_training_changes_is_kept(case, tmp_path):
    before, after = NEW_VALUES[case]
    model = small(value=before, constant=before)
    numbers = train_state.before_training(model)
    if isinstance(before, nn.Parameter):
        model.value = nn.Parameter(after)
    else:
        model.value = after
    state = collected(model, numbers, tmp_path)
    assert state["ranks"][0]["numbers"].keys() == {"value"}
    fresh = small(value=before, constant=before)
    train_state.restore(fresh, state)
    assert (fresh.value == after).all() if isinstance(after, torch.Tensor) else fresh.value == after
    assert fresh.constant is before


def test_a_parameter_stays_the_one_that_its_optimizer_knows(tmp_path):
    model = small(value=nn.Parameter(torch.zeros(2)))
    numbers = train_state.before_training(model)
    model.value.data.fill_(5)
    state = collected(model, numbers, tmp_path)
    fresh = small(value=nn.Parameter(torch.zeros(2)))
    parameter = fresh.value
    train_state.restore(fresh, state)
    assert fresh.value is parameter and parameter.tolist() == [5, 5]


class Kind(enum.IntEnum):
    FIRST = 1


class Word(str, enum.Enum):
    FIRST = "first"


class Image(torch.Tensor):
    """A subclass, as those of torchvision.tv_tensors."""


Pair = namedtuple("Pair", "a b")
ORDERED = OrderedDict(a=1)
ORDERED.attribute = [1]
PLAIN = {
    "enum": (Kind.FIRST, 1),
    "word": (Word.FIRST, "first"),
    "numpy": ([np.float64(1.5), np.int32(2), np.bool_(True), np.str_("s")], [1.5, 2, True, "s"]),
    "pair": (Pair(1, 2), (1, 2)),
    "size": (torch.Size([1, 2]), (1, 2)),
    "ordered": (ORDERED, {"a": 1}),
    "keys": ({Kind.FIRST: 0, (1, "a"): 1, None: 2}, {1: 0, (1, "a"): 1, None: 2}),
    "parameter": (nn.Parameter(torch.ones(2)), torch.ones(2)),
    "subclass": (torch.ones(2).as_subclass(Image), torch.ones(2)),
    "half": (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
    "complex": (torch.ones(2) * 1j, torch.ones(2) * 1j),
    "conjugate": ((torch.ones(2) * 1j).conj(), torch.ones(2) * -1j),
    "view": (torch.arange(6).view(2, 3).T[1:], torch.tensor([[1, 4], [2, 5]])),
    "empty": (torch.zeros(0, 3), torch.zeros(0, 3)),
}


class Keeper:
    """An object with a state."""

    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return {"part": self.state}

    def load_state_dict(self, state):
        self.state = state["part"]


@pytest.mark.parametrize("case", PLAIN)
def test_what_a_state_may_hold_comes_back_as_plain_data(case, tmp_path):
    given_, expected = PLAIN[case]
    model = small(keeper=Keeper(given_))
    state = collected(model, train_state.before_training(model), tmp_path)
    fresh = small(keeper=Keeper(None))
    train_state.restore(fresh, state)
    assert difference(fresh.keeper.state, expected) is None


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
STATES = st.recursive(
    LEAVES | st.builds(torch.tensor, st.lists(st.integers(-5, 5))),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
)


@settings(max_examples=40, deadline=None)
@given(STATES)
def test_any_plain_state_comes_back(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("state")
    checkpoint.save(train_state.plain(state, "it"), folder / "a.pth")
    assert difference(checkpoint.load(folder / "a.pth"), state) is None


REFUSED = {
    "set": {1, 2},
    "function": print,
    "bytes": b"abc",
    "module": nn.Linear(1, 1),
    "array": np.zeros(3),
    "key": {Keeper(1): 2},
    "sparse": torch.eye(2).to_sparse(),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_state_is_one_error_that_names_the_attribute(case, tmp_path):
    model = small(keeper=Keeper([0, REFUSED[case]]))
    with pytest.raises(UserError) as error:
        collected(model, train_state.before_training(model), tmp_path)
    message = str(error.value)
    assert "keeper.part.1" in message and "state_dict()" in message
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_another_model(tmp_path):
    model = small(counter=Keeper(1))
    state = collected(model, train_state.before_training(model), tmp_path)
    with pytest.raises(UserError) as error:
        train_state.restore(small(meter=Keeper(1)), state)
    message = str(error.value)
    assert "it alone has counter, SmallModel alone has meter" in message
    assert "remove the training state" in message


def test_the_state_of_another_network_of_the_same_name(tmp_path):
    model = small()
    state = collected(model, train_state.before_training(model), tmp_path)
    other = SmallModel(options())
    other.netG = nn.Linear(2, 2)
    other.optimizers = [torch.optim.Adam(other.netG.parameters())]
    other.setup(other.opt)
    with pytest.raises(UserError, match="does not fit the model"):
        train_state.restore(other, state)


def test_an_object_has_one_name_whatever_the_number_of_ranks():
    """DistributedDataParallel stands around a network; lists made before still hold the network."""
    net = nn.Linear(1, 1)
    model = small()
    model.nets = [net]
    model.netH = nn.DataParallel(net)
    found = dict(train_state.stateful(model))
    assert found["nets.0"] is net and "netH" not in found


# ---- other numbers of ranks ----------------------------------------------------------------------


def rank(images, place, **numbers):
    """The state of a rank whose pool has images of these values."""
    pool = {"images": [torch.full((3, 2, 2), float(image)) for image in images]}
    return {"objects": {"pool": pool}, "numbers": numbers, "random": {"of rank": place}}


def pools(ranks):
    return [[int(i.mean()) for i in rank["objects"]["pool"]["images"]] for rank in ranks]


DEALT = {
    "1 to 2": ([[0, 1, 2, 3, 4]], [[0, 2, 4], [1, 3]]),
    "2 to 1": ([[0, 1, 2], [10, 11, 12]], [[0, 10, 1, 11, 2, 12]]),
    "2 to 4": ([[0, 1, 2], [10, 11]], [[0, 2], [10], [1], [11]]),
    "4 to 2": ([[0], [10], [20], [30]], [[0, 20], [10, 30]]),
    "3 to 2": ([[0, 1], [10], []], [[0, 1], [10]]),
    "1 to 4": ([[0, 1]], [[0], [1], [], []]),
    "2 to 2": ([[0, 1], [10]], [[0, 1], [10]]),
}


@pytest.mark.parametrize("case", DEALT)
def test_every_image_of_the_pools_is_dealt_once(case):
    before, after = DEALT[case]
    states = train_state.deal([rank(p, i) for i, p in enumerate(before)], len(after))
    assert pools(states) == after
    assert sorted(sum(after, [])) == sorted(sum(before, []))
    assert [state["dealt"] for state in states] == [i < len(before) for i in range(len(after))]
    assert [s["random"]["of rank"] for s in states] == [i % len(before) for i in range(len(after))]


def test_numbers_of_more_ranks_become_their_mean_and_counters_stay():
    values = [
        {"sum": 1.0, "loss": torch.tensor(2.0), "steps": 7, "on": True, "n": torch.tensor(4)},
        {"sum": 2.0, "loss": torch.tensor(5.0), "steps": 7, "on": True, "n": torch.tensor(4)},
    ]
    (one,) = train_state.deal([rank([], i, **v) for i, v in enumerate(values)], 1)
    expected = {"sum": 1.5, "loss": torch.tensor(3.5), "steps": 7, "on": True, "n": torch.tensor(4)}
    assert difference(one["numbers"], expected) is None


def test_a_number_that_only_one_rank_has_changed_is_kept_of_all(monkeypatch):
    """Or its mean over the ranks would not be known when their number changes."""
    model = small(seen=0.0, other=0.0)
    numbers = train_state.before_training(model)

    def of_two_ranks(mine):
        return [mine, mine | {"numbers": mine["numbers"] | {"seen": 3.0}}]

    distributed = train_state.distributed
    monkeypatch.setattr(distributed, "gather_everywhere", lambda changed: [changed, {"seen"}])
    monkeypatch.setattr(distributed, "gather", of_two_ranks)
    ranks = train_state.collect(model, numbers, torch.device("cpu"))["ranks"]
    assert [rank["numbers"] for rank in ranks] == [{"seen": 0.0}, {"seen": 3.0}]
    assert train_state.deal(ranks, 1)[0]["numbers"] == {"seen": 1.5}


def test_a_pool_takes_as_many_as_there_is_room_for():
    (one,) = train_state.deal([rank([0, 1, 2], 0), rank([10, 11, 12], 1)], 1)
    pool = ImagePool(4)
    pool.load_state_dict(one["objects"]["pool"])
    assert [int(image.mean()) for image in pool.images] == [0, 10, 1, 11]


# ---- optimizers and schedules --------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["fused", "foreach", "capturable", "differentiable"])
def test_how_an_optimizer_computes_is_not_taken_over(flag, tmp_path):
    """A state from a GPU with fused=True must not switch that on elsewhere; betas it may."""
    model = small()
    before = model.optimizers[0].param_groups[0][flag]
    model.optimizers[0].param_groups[0][flag] = not before
    model.optimizers[0].param_groups[0]["betas"] = (0.1, 0.2)
    state = collected(model, train_state.before_training(model), tmp_path)
    fresh = small()
    train_state.restore(fresh, state)
    group = fresh.optimizers[0].param_groups[0]
    assert group[flag] is before and tuple(group["betas"]) == (0.1, 0.2)
    fresh.optimize_parameters()


def rates_of(argv, monkeypatch):
    """Epoch to the learning rates of its steps."""
    rates, original = {}, Progress.advance

    def advance(self):
        group = self.model.optimizers[0].param_groups[0]
        rates.setdefault(self.epoch, []).append(round(group["lr"], 9))
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", advance)
        train.main(argv)
    return rates


def test_more_epochs_continue_on_the_new_schedule(data, here, monkeypatch):
    """In epoch e the rate is lr · (1 - (e - n_epochs) / (n_epochs_decay + 1))."""
    first = ["--lr", "0.3", "--n_epochs", "1", "--n_epochs_decay", "1"]
    assert rates_of(command(data, *first), monkeypatch) == {1: [0.3] * 3, 2: [0.15] * 3}
    more = ["--continue_train", "--n_epochs", "2", "--n_epochs_decay", "2"]
    assert rates_of(command(data, *more), monkeypatch) == {3: [0.2] * 3, 4: [0.1] * 3}


def test_more_epochs_amid_an_epoch(data, here, monkeypatch):
    first = ["--lr", "0.3", "--n_epochs", "1", "--n_epochs_decay", "1", "--save_latest_freq", "1"]
    die_after(4, command(data, *first), monkeypatch)  # one image of epoch 2, at 0.15
    more = ["--continue_train", "--n_epochs", "1", "--n_epochs_decay", "2"]
    assert rates_of(command(data, *more), monkeypatch) == {2: [0.2] * 2, 3: [0.1] * 3}


def test_a_rate_that_a_model_has_set_itself_stays(tmp_path):
    """Within an epoch; at its end the schedule sets it anyway."""
    model = small()
    model.optimizers[0].param_groups[0]["lr"] = 0.0123
    state = collected(model, train_state.before_training(model), tmp_path)
    fresh = small()
    train_state.restore(fresh, state)
    assert fresh.optimizers[0].param_groups[0]["lr"] == 0.0123


class OneLayer:
    """As little of a model as there can be: a network and its optimizer."""

    device = torch.device("cpu")

    def __init__(self, kind, seed):
        torch.manual_seed(seed)
        self.netG = torch.nn.Linear(3, 2)
        self.optimizers = [kind(self.netG.parameters(), lr=0.01)]

    def named_networks(self):
        return {"G": self.netG}

    def step(self):
        def closure():
            self.optimizers[0].zero_grad()
            loss = self.netG(torch.arange(3.0)).square().sum()
            loss.backward()
            return loss

        self.optimizers[0].step(closure)


KINDS = ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop"]
KINDS += ["ASGD", "Rprop", "LBFGS", "Adafactor"]


@pytest.mark.parametrize(
    "kind", [getattr(torch.optim, k) for k in KINDS if hasattr(torch.optim, k)]
)
def test_every_optimizer_of_torch_resumes(kind, tmp_path):
    """Three steps, then two; or three, saved, loaded into another model, then two."""
    model, other = OneLayer(kind, 0), OneLayer(kind, 1)
    numbers = train_state.before_training(model)
    for _ in range(3):
        model.step()
    torch.save(train_state.collect(model, numbers, model.device), tmp_path / "state.pth")
    train_state.restore(other, checkpoint.load(tmp_path / "state.pth"))
    for _ in range(2):
        model.step()
        other.step()
    assert torch.equal(model.netG.weight, other.netG.weight)


# ---- networks that nothing trains ----------------------------------------------------------------


def fixed(value):
    return nn.Linear(1, 1).requires_grad_(False).apply(lambda net: net.weight.fill_(value))


def test_a_network_that_nothing_trains_is_in_no_state_until_it_changes(tmp_path):
    """A pretrained one, for a loss, may be larger than all the rest; an average is no such."""
    model = small(vgg=fixed(2.0), average=fixed(3.0))
    before = train_state.before_training(model)
    model.average.weight.data.mul_(0.5)  # tells no version counter
    state = collected(model, before, tmp_path)
    assert "average" in state["objects"] and "vgg" not in state["objects"]
    assert "netG" in state["objects"]
    other = small(vgg=fixed(2.5), average=fixed(3.0))
    train_state.restore(other, state)
    assert (other.vgg.weight.item(), other.average.weight.item()) == (2.5, 1.5)
    model.netG.requires_grad_(False)  # one of the model's own is always there
    assert "netG" in collected(model, train_state.before_training(model), tmp_path)["objects"]


# ---- the file -----------------------------------------------------------------------------------


def test_every_flipped_bit_of_the_weights_in_a_state_is_noticed(tmp_path):
    model = small()
    model.netG = nn.Linear(64, 64)
    collected(model, train_state.before_training(model), tmp_path)
    path = checkpoint.state_path(tmp_path, "latest")
    whole = path.read_bytes()
    start = whole.index(model.netG.weight.detach().numpy().tobytes())
    for place in (start, start + 4 * 2000 + 1, start + 4 * 4095):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            checkpoint.load_train_state(tmp_path, "latest")
    path.write_bytes(whole)
    assert checkpoint.load_train_state(tmp_path, "latest")


def test_what_is_wrong_with_a_path_is_no_reason_to_remove_a_state(tmp_path, monkeypatch):
    folder = tmp_path / os.fsdecode(b"caf\xe9")  # Latin-1
    folder.mkdir()
    model = small()
    state = collected(model, train_state.before_training(model), folder)
    assert state["progress"]["epoch"] == 1
    train_state.restore(model, state)

    def forbidden(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "screen", forbidden)
    with pytest.raises(UserError, match="cannot read .*Permission denied") as error:
        checkpoint.load_train_state(folder, "latest")
    assert "remove" not in str(error.value)
