"""models/networks/schedulers.py: the learning rate of each epoch."""

import io
import math
from types import SimpleNamespace

import pytest
import torch
from formulas import reference

from models.networks import LR_POLICIES, get_scheduler

SCHEDULES = reference("schedules")
DEFAULTS = {
    "lr": 0.0002,
    "lr_policy": "linear",
    "n_epochs": 100,
    "n_epochs_decay": 100,
    "lr_decay_iters": 50,
    "epoch_count": 1,
}


def options(argv=(), **overrides):
    """LR scheduler options, from a command line of the reference or by name."""
    given = {flag[2:]: value for flag, value in zip(argv[::2], argv[1::2], strict=True)}
    given = {k: type(DEFAULTS[k])(v) for k, v in given.items() if k in DEFAULTS}
    return SimpleNamespace(**{**DEFAULTS, **given, **overrides})


def start(opt):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=opt.lr)
    return optimizer, get_scheduler(optimizer, opt)


def rates(opt, epochs):
    """The learning rates of `epochs` epochs from opt.epoch_count on."""
    optimizer, scheduler = start(opt)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("case", SCHEDULES, ids=lambda case: "_".join(case["argv"][2:]))
def test_learning_rates_are_those_of_the_original(case):
    expected = case["lr_of_epoch"]
    assert rates(options(case["argv"]), len(expected)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("case", SCHEDULES, ids=lambda case: "_".join(case["argv"][2:]))
def test_a_run_that_starts_late_has_the_rates_of_an_unbroken_run(case):
    expected = case["lr_of_epoch"]
    for first in range(1, len(expected) + 1):
        late = rates(options(case["argv"], epoch_count=first), len(expected) - first + 1)
        assert late == pytest.approx(expected[first - 1 :], rel=1e-12)


@pytest.mark.parametrize("epoch_count", [1, 100, 101, 150, 200])
def test_linear_is_the_formula_of_the_documentation(epoch_count):
    """The learning rate lr(1 - (e - n_epochs) / (n_epochs_decay + 1)); the last is not zero."""
    found = rates(options(epoch_count=epoch_count), 201 - epoch_count)
    for epoch, rate in enumerate(found, start=epoch_count):
        expected = 0.0002 if epoch <= 100 else 0.0002 * (1 - (epoch - 100) / 101)
        assert rate == pytest.approx(expected, rel=1e-12)
    assert found[-1] == pytest.approx(0.0002 / 101, rel=1e-12)


def test_linear_never_goes_below_zero():
    assert rates(options(n_epochs=1, n_epochs_decay=1, epoch_count=3), 3) == [0, 0, 0]


def test_cosine_is_zero_after_n_epochs_and_agrees_with_torch():
    opt = options(lr_policy="cosine", n_epochs=7)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=opt.lr)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    ours = rates(opt, 12)
    for rate in ours:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-15)
        optimizer.step()
        theirs.step()
    assert ours[7] == pytest.approx(0, abs=1e-15)


def test_plateau_takes_a_fifth_after_more_than_five_epochs_without_progress():
    optimizer, scheduler = start(options(lr_policy="plateau"))
    found = []
    # 1 sets the mark; 0.5 is progress, less than 1 % (0.496) is none: 6 such epochs
    for loss in [1.0, 0.5, 0.499, 0.498, 0.497, 0.496, 0.5, 0.5, 0.4]:
        optimizer.step()
        scheduler.step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([0.0002] * 7 + [0.00004] * 2, rel=1e-12)


def test_plateau_takes_a_tensor_as_the_loss():
    _, scheduler = start(options(lr_policy="plateau"))
    scheduler.step(torch.tensor(0.5))
    assert math.isclose(scheduler.best, 0.5)


@pytest.mark.parametrize("policy", LR_POLICIES)
def test_state_survives_a_file_and_continues(policy):
    def advance(optimizer, scheduler, epochs):
        found = []
        for _ in range(epochs):
            optimizer.step()
            scheduler.step(*[1.0] * (policy == "plateau"))
            found.append(optimizer.param_groups[0]["lr"])
        return found

    opt = options(lr_policy=policy, n_epochs=5, n_epochs_decay=20, lr_decay_iters=3)
    whole = advance(*start(opt), 18)
    optimizer, scheduler = start(opt)
    advance(optimizer, scheduler, 8)
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)

    optimizer, scheduler = start(options(**{**vars(opt), "epoch_count": 9}))
    optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    assert len(set(whole)) > 2
    assert advance(optimizer, scheduler, 10) == whole[8:]


@pytest.mark.parametrize("policy", ["linear", "step", "cosine"])
def test_each_group_keeps_its_own_base_rate(policy):
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [parameters[0]], "lr": 1.0}, {"params": [parameters[1]], "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    opt = options(lr_policy=policy, n_epochs=4, n_epochs_decay=4, lr_decay_iters=2, epoch_count=6)
    get_scheduler(optimizer, opt)
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert 0 < first < 1 and second == pytest.approx(first / 10)


def test_unknown_policy_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'constant'.*linear, step, plateau, cosine"):
        start(options(lr_policy="constant"))


def test_cosine_needs_an_epoch():
    with pytest.raises(ValueError, match="n_epochs is 0"):
        start(options(lr_policy="cosine", n_epochs=0))
    assert rates(options(lr_policy="cosine", n_epochs=1), 2) == pytest.approx([0.0002, 0])
