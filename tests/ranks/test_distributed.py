"""The wrapper on real ranks; devices, options and seeds in the environment that torchrun makes."""

import atexit
import contextlib
import functools
import io
import os
import re
import signal
import sys
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
from models.step import frozen
from options.train_options import TrainOptions
from util import devices, distributed, rng
from util.distributed import program, sync_batch_norm
from util.distributed import ranks as ranks_module
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


class Parts(nn.Module):
    """A network that is used by more than its `forward`."""

    levels = 2

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(3, 3).double(), nn.Linear(3, 1).double()
        self.heads = nn.ModuleDict({"a": nn.Linear(3, 2).double()})

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
    return net.levels, named, bool(net), list(net.state_dict()) == list(parts().state_dict())


def test_a_wrapped_network_has_the_attributes_and_keys_of_the_network(four):
    assert four(attributes_of_wrapped) == [(2, True, True, True)] * 4


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


# ---- options under torchrun, without a group -------------------------------------------------


@pytest.fixture
def job(monkeypatch):
    """Makes this process look like one rank of a job on one machine."""

    def pretend(world_size, rank=0):
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(name, str(rank))
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.setenv(name, str(world_size))

    monkeypatch.setattr(distributed, "from_main", lambda name, compute: compute())
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    return pretend


def parse(*argv, model="pix2pix"):
    return TrainOptions().parse(["--dataroot", "d", "--gpu_ids", "-1", "--model", model, *argv])


NORM_POLICY = [
    # model, what is given, on one process, on several ranks (None: refused)
    ("pix2pix", [], "batch", "syncbatch"),
    ("pix2pix", ["--norm", "batch"], "batch", None),
    ("pix2pix", ["--norm=batch"], "batch", None),
    ("pix2pix", ["--norm", "syncbatch"], "syncbatch", "syncbatch"),
    ("pix2pix", ["--norm", "sync_batch"], "syncbatch", "syncbatch"),
    ("pix2pix", ["--norm", "instance"], "instance", "instance"),
    ("pix2pix", ["--norm", "none"], "none", "none"),
    ("cycle_gan", [], "instance", "instance"),
    ("cycle_gan", ["--norm", "batch"], "batch", None),
    ("cycle_gan", ["--norm", "sync_instance"], "instance", "instance"),
]


@pytest.mark.parametrize(("model", "given", "alone", "together"), NORM_POLICY)
def test_norm_policy(model, given, alone, together, job, capsys):
    assert parse(*given, model=model).norm == alone
    assert capsys.readouterr().out == ""
    job(2)
    if together is not None:
        assert parse(*given, model=model).norm == together
        said = capsys.readouterr().out
        changed = alone != together
        assert said.count("\n") == changed and ("becomes syncbatch" in said) == changed
        return
    with pytest.raises(SystemExit) as exit:
        parse(*given, model=model)
    message = capsys.readouterr().err
    assert exit.value.code == 2 and message.count("error:") == 1
    for part in ("--norm batch on 2 ranks", "--norm syncbatch", "--norm instance", "by itself"):
        assert part in message


def test_the_change_of_norm_is_said_by_rank_0_alone(job, capsys):
    job(2, rank=1)
    assert parse().norm == "syncbatch"
    assert capsys.readouterr().out == ""


def test_torchrun_with_one_process_is_one_process(job, capsys):
    job(1)
    assert parse("--norm", "batch").norm == "batch"


@pytest.mark.parametrize(
    ("ranks", "given", "each", "total"),
    [
        (4, [], 1, 4),
        (4, ["--batch_size", "3"], 3, 12),
        (4, ["--global_batch_size", "8"], 2, 8),
        (1, ["--global_batch_size", "8"], 8, 8),
    ],
)
def test_batch_sizes(ranks, given, each, total, job):
    job(ranks)
    opt = parse(*given)
    assert (opt.batch_size, opt.global_batch_size) == (each, total)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--global_batch_size", "6"], "--global_batch_size 6 .* 4 ranks; .*multiple of 4"),
        (["--global_batch_size", "0"], "--global_batch_size 0"),
        (["--global_batch_size", "-4"], "--global_batch_size -4"),
        (["--global_batch_size", "4", "--batch_size", "1"], "--batch_size .*--global_batch_size"),
    ],
)
def test_batch_sizes_that_cannot_be(given, message, job, capsys):
    job(4)
    with pytest.raises(SystemExit) as exit:
        parse(*given)
    assert exit.value.code == 2 and re.search(message, capsys.readouterr().err)


def test_all_problems_of_a_rank_are_told_together(job, capsys):
    job(4)
    with pytest.raises(SystemExit):
        parse("--norm", "batch", "--global_batch_size", "6", "--n_epohcs", "3")
    message = capsys.readouterr().err
    for part in ("--norm syncbatch", "use a multiple of 4", "--n_epochs"):
        assert part in message


# ---- devices ---------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch):
    """Makes this machine look as if it had some GPUs."""

    def pretend(count, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU model {i}")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


def device(given=None):
    return str(devices.choose_device(given))


def test_each_rank_has_a_gpu_of_its_own(job, gpus, capsys):
    gpus(4)
    for rank in range(4):
        job(4, rank)
        assert device() == f"cuda:{rank}"
    job(2, rank=1)
    assert device() == "cuda:1"  # more GPUs than ranks
    assert [device(given) for given in ("2,3", "3,0", "-1")] == ["cuda:3", "cuda:0", "cpu"]
    assert capsys.readouterr().out == ""


def test_the_device_is_that_of_the_rank_on_its_own_machine(job, gpus, monkeypatch):
    gpus(2)
    job(4, rank=3)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert device() == "cuda:1"


@pytest.mark.parametrize("given", [None, "0"])
def test_a_launcher_may_show_each_rank_one_gpu_only(given, job, gpus, capsys):
    """As SLURM does: all are called cuda:0."""
    gpus(1)
    for rank in range(2):
        job(2, rank)
        assert device(given) == "cuda:0"
    assert capsys.readouterr().out == ""


def backend_for(gpu_ids, path):
    """Which backend a rank asks for whose GPUs have these ids ("": none), and what it says."""
    store = dist.FileStore(str(path), dist.get_world_size())
    heard, asked = io.StringIO(), []
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(heard):
        patch.setattr(ranks_module, "store", lambda: store)
        patch.setattr(ranks_module, "gpu_id", lambda device: gpu_ids[dist.get_rank()])
        patch.setattr(dist, "init_process_group", lambda name, **more: asked.append(name))
        patch.setattr(dist, "destroy_process_group", lambda: None)
        with distributed.job(torch.device("cpu"), 1.0):
            pass
    return asked, heard.getvalue()


@pytest.mark.parametrize(
    ("gpu_ids", "backend", "warns"),
    [
        (["GPU-1", "GPU-2", "GPU-3", "GPU-4"], "cpu:gloo,cuda:nccl", False),
        (["GPU-1", "GPU-2", "GPU-3", "GPU-1"], "gloo", True),  # the last one alone may know
        (["GPU-1", "GPU-2", "GPU-3", ""], "gloo", True),
        (["", "", "", ""], "gloo", False),
    ],
)
def test_all_ranks_agree_on_nccl_or_none_uses_it(four, tmp_path, gpu_ids, backend, warns):
    answers = four(backend_for, gpu_ids, tmp_path / "store")
    assert [asked for asked, _ in answers] == [[backend]] * 4
    assert ["which is slow" in said for _, said in answers] == [warns, False, False, False]


def test_a_given_list_shorter_than_the_ranks_is_refused(job, gpus):
    gpus(4)
    job(4)
    for given in ("0", "1,2", "0,0,1,1"):
        with pytest.raises(UserError, match=f"--gpu_ids {given} .*4 ranks"):
            device(given)


def test_ranks_without_gpus_run_on_the_cpu(job, gpus):
    gpus(0)
    assert device() == "cpu"
    job(2)
    assert device() == device("-1") == device("0") == "cpu"
    gpus(0, mps=True)
    assert device() == "cpu"  # it has no collectives
    job(1)
    assert device() == "mps"


def test_one_process_that_could_use_several_gpus_is_told_how(job, gpus, capsys):
    gpus(2)
    assert device() == "cuda:0"
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "torchrun --nproc_per_node=2 train.py" in said
    gpus(1)
    assert device() == "cuda:0"
    assert capsys.readouterr().out == ""


# ---- once for the whole job ------------------------------------------------------------------


def test_only_rank_0_speaks_and_writes(job, capsys):
    written = []
    write = distributed.main_only(written.append)
    for rank in range(3):
        job(3, rank)
        distributed.print0(f"rank {rank}")
        write(rank)
        assert bool(distributed.main_only(lambda: [1])()) == (rank == 0)
    assert capsys.readouterr().out == "rank 0\n" and written == [0]


def complaint(path):
    """All complain at once; what this rank printed, and how long it stayed."""
    store = dist.FileStore(str(path), dist.get_world_size())
    heard, stayed = io.StringIO(), []
    dist.barrier()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(heard):
        patch.setattr(ranks_module, "store", lambda: store)  # torchrun's, in a job
        patch.setattr(program.time, "sleep", stayed.append)
        distributed.print_error_once(f"rank {dist.get_rank()} has a problem")
    return heard.getvalue().count("has a problem\n"), stayed


def test_one_rank_complains_and_the_others_let_it_leave_first(four, tmp_path):
    assert sorted(four(complaint, tmp_path / "store")) == [(0, [5]), (0, [5]), (0, [5]), (1, [])]


def lose_rank_1(how, path):
    """Rank 1 dies; how rank 0 leaves the job, and what it prints."""
    net = distributed.wrap(nn.Conv2d(3, 3, 1), norm="none")
    if dist.get_rank() == 1:
        os._exit(9)

    def main():
        if how == "backward":  # not a collective of ours
            net(torch.ones(1, 3, 2, 2)).sum().backward()
        else:
            distributed.gather_everywhere(1)

    heard = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(heard):
        patch.setattr(os, "_exit", sys.exit)
        with pytest.raises(SystemExit) as exit:
            distributed.run(main)
    path.write_text(f"{exit.value.code}: {heard.getvalue()}")


@pytest.mark.parametrize("how", ["collective", "backward"])
def test_a_rank_that_lost_the_others_says_so_without_a_traceback(how, tmp_path):
    with ranks(2, tmp_path) as two, pytest.raises(EOFError):  # from rank 1
        two(lose_rank_1, how, tmp_path / "said")
    said = (tmp_path / "said").read_text()
    assert said.startswith("1: ") and said.count("\n") == 1
    assert "error: rank 0 lost the other ranks" in said


@pytest.mark.parametrize(
    ("error", "rank", "leaves_with", "says"),
    [
        (UserError("no image"), 0, 2, "error: no image\n"),
        (UserError("no image"), 1, 2, ""),  # rank 0 is taken to have said it
        (ValueError("a bug"), 0, 1, "\nValueError: a bug\n"),
        (ValueError("a bug"), 1, 1, ""),
        (FileNotFoundError(2, "No such file", "/igloo/x.txt"), 0, 1, "\nFileNotFoundError: "),
        (RuntimeError("cannot open /data/gloo/x.cc"), 0, 1, "\nRuntimeError: cannot open"),
        (dist.DistNetworkError("the store is gone"), 0, 1, "rank 0 lost the other ranks"),
        (KeyboardInterrupt(), 0, 130, "interrupted\n"),
        (KeyboardInterrupt(), 1, 130, ""),
    ],
)
def test_a_rank_that_fails_says_so_and_waits_for_nobody(
    error, rank, leaves_with, says, job, monkeypatch, capsys
):
    """With NCCL the end of the process group waits for collectives that never come."""
    job(2, rank)

    def main():
        with distributed.job(torch.device("cpu"), 1.0):
            raise error

    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))  # put back afterwards
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    monkeypatch.setattr(program, "exchange", lambda name, value: ["", ""])
    monkeypatch.setattr(program, "_join", lambda *args: None)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: pytest.fail("it would wait"))
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: None)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as exit:
        distributed.run(main)
    assert exit.value.code == leaves_with
    said = capsys.readouterr().err
    assert bool(said) == bool(says) and says in said


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "0"},
        {"RANK": "1"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "2"},
        {"WORLD_SIZE": "2"},  # nor where to meet
    ],
)
def test_an_environment_that_torchrun_would_not_make_is_one_message(
    variables, job, monkeypatch, capsys
):
    """Others would wait minutes for ranks that do not come."""
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))  # put back afterwards
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ranks_module._store_of_job.cache_clear()
    with pytest.raises(SystemExit) as exit:
        distributed.run(ranks_module.store)
    said = capsys.readouterr().err
    assert exit.value.code == 2 and said.count("error: ") == 1 and "torchrun" in said


def test_the_stand_in_takes_any_call():
    no_op = distributed.NoOp()
    assert no_op.anything(1, two=3) is None and not no_op


def test_programs_for_one_process_refuse_several(job):
    distributed.one_process_only()
    job(2)
    with pytest.raises(UserError, match="one process.*torchrun started 2"):
        distributed.one_process_only()
