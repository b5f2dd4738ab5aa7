"""The wrapper and the values that ranks exchange, on four real ranks, against one process."""

import functools
import warnings
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torchrun import ranks

from models import networks
from models.base_model import BaseModel
from models.step import frozen
from util import distributed, rng
from util.distributed import sync_batch_norm
from util.errors import UserError

# ---- the wrapper, on four ranks --------------------------------------------------------------


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    with ranks(4, tmp_path_factory.mktemp("four")) as call:
        yield call


class Users(nn.Module):
    """A network of a user's own: batch norm deep inside, buffers saved and unsaved."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ModuleDict({"norm": nn.BatchNorm2d(4)}))
        self.register_buffer("saved", torch.rand(2))
        self.register_buffer("unsaved", torch.rand(2), persistent=False)

    def forward(self, x):
        x = self.head[1]["norm"](self.head[0](x)).relu()
        return x.flatten(1).sum(1) * self.saved.sum() * self.unsaved.sum()


def users(seed):
    torch.manual_seed(seed)
    return Users().double()


def batch(part=slice(None)):
    return torch.randn(8, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(9))[
        part
    ]


def own_part():
    return slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)


def one_step(net, part):
    """Mean loss of a part of the batch; gradients and what changed."""
    net(batch(part)).square().mean().backward()
    plain = distributed.unwrap(net)
    return {name: p.grad for name, p in plain.named_parameters()}, plain.state_dict()


def wrapped_step():
    net = distributed.wrap(users(seed=dist.get_rank()), norm="syncbatch")
    assert isinstance(net, DistributedDataParallel)
    return one_step(net, own_part())


def test_wrapped_networks_are_rank_0s_and_their_gradients_are_means(four):
    """Means over ranks, and statistics over all: what one process has on the whole batch."""
    gradients, state = one_step(users(seed=0), slice(None))
    for own_gradients, own_state in four(wrapped_step):
        assert list(own_state) == list(state)  # no "module."
        for found, expected in ((own_gradients, gradients), (own_state, state)):
            for key in expected:
                assert torch.allclose(found[key], expected[key], rtol=1e-12, atol=1e-12), key


def odd_contents():
    """What a network may hold: no trainable weights, integers, channels last, half precision."""
    torch.manual_seed(dist.get_rank())
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    net.register_buffer("flag", torch.tensor(dist.get_rank() == 0))
    net.register_buffer("small", torch.rand(3).half())
    net.register_buffer("unsaved", torch.rand(2), persistent=False)
    net[1].num_batches_tracked += 7 + dist.get_rank()
    frozen_net = net.requires_grad_(False)
    assert distributed.wrap(frozen_net, norm="syncbatch") is frozen_net
    nothing = nn.Tanh()
    assert distributed.wrap(nothing, norm="instance") is nothing
    return frozen_net.state_dict() | {"unsaved": net.unsaved}


def test_networks_without_trainable_parameters_get_rank_0s_values_too(four):
    states = four(odd_contents)
    assert states[0]["1.num_batches_tracked"] == 7 and states[0]["flag"]
    assert all(torch.equal(state[key], states[0][key]) for state in states for key in state)


def refused():
    with pytest.raises(ValueError, match="4 ranks.*syncbatch.*instance"):
        distributed.wrap(nn.Conv2d(3, 3, 1), norm="batch")


def test_wrap_refuses_batch_norm(four):
    four(refused)


def converted():
    net = nn.DataParallel(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))
    inner = net.module
    wrapped = distributed.wrap(net, norm="instance")
    assert type(inner[1]) is sync_batch_norm.SyncBatchNorm
    assert distributed.unwrap(wrapped) is inner
    alone = distributed.wrap(nn.BatchNorm2d(3), norm="none")
    assert type(distributed.unwrap(alone)) is sync_batch_norm.SyncBatchNorm


def test_wrap_converts_whatever_the_norm_is_called_and_unwrap_gives_the_network(four):
    four(converted)


class Collectives:
    """Counts the gradient buckets that are all-reduced for each network."""

    def __init__(self, **nets):
        self.count = Counter()
        for name, net in nets.items():
            net.register_comm_hook(name, self.hook)

    def hook(self, name, bucket):
        self.count[name] += 1
        return allreduce_hook(dist.group.WORLD, bucket)

    def taken(self):
        count, self.count = self.count, Counter()
        return dict(count)


def gan():
    torch.manual_seed(0)
    G = networks.define_G(3, 3, 4, "resnet_6blocks", norm="batch")
    D = networks.define_D(3, 4, "n_layers", n_layers_D=1, norm="batch")
    return G.double(), D.double()


def gan_steps(G, D, x, collectives=None):
    """Three steps as in CycleGAN and wgangp; which networks' gradients were all-reduced when."""
    seen = []
    optimizers = [torch.optim.SGD(net.parameters(), 1e-3) for net in (G, D)]
    for _ in range(3):
        for optimizer in optimizers:
            optimizer.zero_grad()
        fake = G(x)
        with frozen(D):
            (D(fake).square().mean() + (G(fake) - x).abs().mean()).backward()
        seen.append(collectives and collectives.taken())
        penalty, _ = networks.cal_gradient_penalty(D, x, fake.detach(), "cpu", type="fake")
        (D(x).mean() - D(fake.detach()).mean() + penalty).backward()
        seen.append(collectives and collectives.taken())
        for optimizer in optimizers:
            optimizer.step()
    return seen


def wrapped_gan_steps():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        G, D = (distributed.wrap(net, norm="syncbatch") for net in gan())
        seen = gan_steps(G, D, batch_of_images()[own_part()], Collectives(G=G, D=D))
    states = [distributed.unwrap(net).state_dict() for net in (G, D)]
    return seen, [str(warning.message) for warning in caught], states


def batch_of_images():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(8, 3, 16, 16, dtype=torch.float64, generator=generator) * 2 - 1


class Inner(nn.Module):
    """A part with a method and parts of its own."""

    def __init__(self):
        super().__init__()
        self.layers, self.gain = nn.Sequential(nn.Linear(3, 3).double()), 1.0

    def encode(self, x):
        return self.layers(x) * self.gain


class Parts(nn.Module):
    """A network that is used by more than its `forward`."""

    levels = 2

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(3, 3).double(), nn.Linear(3, 1).double()
        self.heads = nn.ModuleDict({"a": nn.Linear(3, 2).double()})
        self.inner = Inner()

    def __getitem__(self, key):
        return self.heads[key]

    def __iter__(self):
        return iter([self.encoder, self.head])

    def forward(self, x):
        return self.head(self.encode(x))

    def encode(self, x, scale=1.0):
        return self.encoder(x).tanh() * scale

    def own_forward(self, x):
        return self(x)


USES = {
    "method": lambda net, x: net.encode(x, scale=2.0),
    "method that calls the network": lambda net, x: net.own_forward(x),
    "part": lambda net, x: net.head(net.encoder(x)),
    "item": lambda net, x: net["a"](x),
    "method of a part": lambda net, x: net.inner.encode(x),
    "part of a part": lambda net, x: net.inner.layers(x),
    "item of a part": lambda net, x: net.heads["a"](x),
    "loop over a part": lambda net, x: next(iter(net.inner.layers))(x),
    "loop": lambda net, x: functools.reduce(lambda y, part: part(y), net, x),
}


def parts():
    torch.manual_seed(3)
    return Parts()


def gradients_of_use(use):
    x = torch.arange(24.0, dtype=torch.float64).view(8, 3) / 24
    net = parts()
    if dist.is_initialized():
        x = x[own_part()]
        net = distributed.wrap(net, "none", find_unused=True)
    USES[use](net, x).square().mean().backward()
    return {name: w.grad for name, w in distributed.unwrap(net).named_parameters()}


@pytest.mark.parametrize("use", USES)
def test_whatever_is_called_of_a_wrapped_network_has_gradients_of_all_ranks(use, four):
    expected = gradients_of_use(use)
    for found in four(gradients_of_use, use):
        for name, gradient in expected.items():
            if gradient is None:
                assert found[name] is None or not found[name].any()
            else:
                torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12)


def attributes_of_wrapped():
    net = distributed.wrap(parts(), "none")
    ema = parts()
    ema.load_state_dict(net.state_dict())  # as plug-ins do on one rank
    net.load_state_dict(ema.state_dict())
    with pytest.raises(AttributeError):
        net.there_is_none  # noqa: B018
    named = net.encoder.weight is net.module.encoder.weight
    net.levels, net.unheard_of, net.inner.gain = 3, "new", 2.0
    inner = net.module
    assert (inner.levels, inner.unheard_of, inner.inner.gain) == (3, "new", 2.0)
    assert net.inner.layers == net.inner.layers and len({net.inner, net.inner}) == 1
    BaseModel.set_requires_grad(net.inner)
    assert not any(weight.requires_grad for weight in inner.inner.parameters())
    net.eval()
    assert not inner.training and not inner.inner.training and len(net.heads) == 1
    return net.levels, named, bool(net), list(net.state_dict()) == list(parts().state_dict())


def test_a_wrapped_network_has_the_attributes_and_keys_of_the_network(four):
    assert four(attributes_of_wrapped) == [(3, True, True, True)] * 4


def refused_for_its_attribute(name, value):
    net = parts()
    setattr(net, name, value)
    try:
        distributed.wrap(net, "none")
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "value", "agrees"),
    [("dim", 3, False), ("gather", len, False), ("device", torch.device("cpu"), True)],
)
def test_attributes_that_ddp_has_itself_agree_or_are_refused(name, value, agrees, four):
    """Somebody who reads `net.dim` would get that of DistributedDataParallel."""
    for told in four(refused_for_its_attribute, name, value):
        assert (told == "") == agrees and (agrees or f"has, too: {name}; call them" in told)


def step_with_unused_weights():
    net, told = distributed.wrap(parts(), "none"), ""
    for _ in range(2):
        try:
            net(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
        except UserError as error:
            told = str(error)
    return told


def test_weights_without_a_part_in_the_losses_are_named(four):
    for told in four(step_with_unused_weights):
        assert "weights of Parts" in told and "find_unused_parameters = True" in told
        assert "heads.a.weight, heads.a.bias" in told and "encoder" not in told


def lines_of_ranks(lines):
    try:
        distributed.check_same("options", lambda: lines[dist.get_rank()])
    except UserError as error:
        return str(error)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([["--a 1", "--b 2"]] * 4, None),
        ([["--a 1"]] * 2 + [["--a 2"], ["--a 3"]], "rank 2 has --a 2 where rank 0 has --a 1"),
        ([["--a 1"]] * 3 + [[]], "rank 3 has nothing where rank 0 has --a 1"),
        ([["x"], ["x", "y"], ["x"], ["x"]], "rank 1 has y where rank 0 has nothing"),
    ],
)
def test_the_first_rank_that_was_given_something_else_is_named_to_all(lines, told, four):
    answers = four(lines_of_ranks, lines)
    assert len(set(answers)) == 1
    assert answers[0] is told is None or told in answers[0]


def test_a_gan_trains_as_in_one_process(four):
    """D twice before one backward, G twice, D frozen in G's step, double backward for the penalty.

    Weights and running statistics are those of one process, and equal on all ranks to the bit.
    """
    G, D = gan()
    gan_steps(G, D, batch_of_images())
    results = four(wrapped_gan_steps)
    for seen, caught, states in results:
        assert seen == [{"G": 1}, {"D": 1}] * 3  # one bucket each, and nothing of a frozen network
        assert caught == []  # above all about broadcast_buffers
        for net, state, rank_0s in zip((G, D), states, results[0][2], strict=True):
            for key, expected in net.state_dict().items():
                assert torch.allclose(state[key], expected, rtol=1e-9, atol=1e-11), key
                assert torch.equal(state[key], rank_0s[key]), key


def means():
    rank = dist.get_rank()
    loss = torch.tensor(float(rank), requires_grad=True)
    return distributed.mean(
        {"G": loss, "D": torch.tensor([2.0 * rank], dtype=torch.float64), "number": rank + 0.5}
    )


def test_losses_are_means_over_the_ranks_tensors_and_numbers_alike(four):
    assert four(means) == [{"G": 1.5, "D": 3.0, "number": 2.0}] * 4
    assert four(distributed.mean, {}) == [{}] * 4


def seeds():
    rng.seed_everything(5)
    initial, shared = torch.rand(3).tolist(), rng.rand_of_batch(2)
    rng.seed_rank(5)
    return initial, torch.rand(3).tolist(), torch.cat([shared, rng.rand_of_batch(2)])


def test_seeds_are_alike_for_the_weights_and_differ_for_dropout(four):
    results = four(seeds)
    assert len({tuple(initial) for initial, _, _ in results}) == 1
    assert len({tuple(own) for _, own, _ in results}) == 4


def test_numbers_drawn_for_the_batch_are_those_of_one_process(four):
    rng.seed_everything(5)
    whole = [rng.rand_of_batch(8), rng.rand_of_batch(8)]
    parts = [numbers for _, _, numbers in four(seeds)]
    for step in range(2):
        assert torch.equal(torch.cat([part[2 * step :][:2] for part in parts]), whole[step])


def test_rank_0_continues_with_the_numbers_of_one_process():
    rng.seed_everything(5)
    torch.rand(7)
    before = torch.get_rng_state()
    rng.seed_rank(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_in_one_process_wrap_is_the_network_itself():
    net = nn.Sequential(nn.BatchNorm2d(3))
    assert distributed.wrap(net, norm="batch") is net
    assert type(net[0]) is nn.BatchNorm2d


def trained_with(backwards):
    """A step with two losses: one backward of their sum, or one backward for each."""
    net = distributed.wrap(users(seed=0), norm="instance")
    losses = [net(batch(own_part())).square().mean(), net(2 * batch(own_part())).mean()]
    for loss in losses if backwards == 2 else [sum(losses)]:
        loss.backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    try:
        distributed.check_ddp_consistency({"G": net})
    except UserError as error:
        return str(error)


def test_a_job_whose_ranks_train_apart_is_stopped(four):
    assert four(trained_with, 1) == [None] * 4
    for message in four(trained_with, 2):
        assert "network G" in message and "backward() once" in message


def optimizer_of(*stray):
    net = distributed.wrap(users(seed=0), norm="instance")
    optimizer = torch.optim.SGD([*net.parameters(), *map(nn.Parameter, stray)], 0.1)
    try:
        distributed.check_wrapped([net], [optimizer])
    except UserError as error:
        return str(error)


def test_weights_that_nothing_averages_are_refused_before_they_drift(four):
    assert four(optimizer_of) == [None] * 4
    for message in four(optimizer_of, torch.zeros(3, 7)):
        assert "[3, 7]" in message and "model_names" in message
