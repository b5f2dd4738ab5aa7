"""Batch norm over several ranks on the CPU, against one process with the whole batch."""

import copy
import io
import pickle
from dataclasses import dataclass, field, replace
from itertools import accumulate

import pytest
import torch
import torch.distributed as dist
from conftest import TINY
from torch import nn
from torchrun import ranks

from models import create_model, networks
from options.train_options import TrainOptions
from util.distributed import sync_batch_norm

SHARES = {2: (2, 1), 4: (1, 2, 3, 1)}  # samples of each rank


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    with (
        ranks(2, tmp_path_factory.mktemp("two")) as two,
        ranks(4, tmp_path_factory.mktemp("four")) as four,
    ):
        yield {2: two, 4: four}


@dataclass(frozen=True)
class Case:
    """A layer, its input, and what is done with it."""

    layer: type = nn.BatchNorm2d
    size: tuple[int, ...] = (5, 4)
    options: dict = field(default_factory=dict)
    training: bool = True
    penalty: bool = False
    shares: tuple[int, ...] = SHARES[4]
    dtype: torch.dtype = torch.float64
    device: str = "cpu"

    def build(self):
        """The layer, with weights and running statistics that are not the initial ones."""
        layer = self.layer(3, **self.options).to(self.dtype)
        generator = torch.Generator().manual_seed(0)
        for tensor in layer.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)
        return layer.train(self.training).to(self.device)

    def batch(self, step):
        """(input, weights of the loss) of the whole batch, far from mean 0 and variance 1."""
        generator = torch.Generator().manual_seed(step + 1)
        size = (sum(self.shares), 3, *self.size)
        x, w = (torch.randn(size, generator=generator, dtype=torch.float64) for _ in "xw")
        return (x * 3 + 20).to(self.device, self.dtype), w.to(self.device, self.dtype)


def steps(layer, case, part=slice(None)):
    """Two steps on a part of the batch: everything that comes out of the layer."""
    found = {}
    for step in range(2):
        x, w = (tensor[part] for tensor in case.batch(step))
        x = x.clone().requires_grad_(True)
        output = layer(x)
        loss = (output.pow(3) * w).sum()
        if case.penalty:  # as wgangp: the slope of all outputs, wherever they were computed
            (slope,) = torch.autograd.grad(loss, x, create_graph=True)
            loss = (slope.flatten(1).norm(dim=1) - 1).square().sum()
        loss.backward()
        found |= {f"output {step}": output.detach(), f"gradient {step}": x.grad}
    summed = {f"sum {name}": p.grad for name, p in layer.named_parameters()}
    return found, summed, layer.state_dict()


def part_of(case):
    end = list(accumulate(case.shares))[dist.get_rank()]
    return slice(end - case.shares[dist.get_rank()], end)


def steps_on_ranks(case):
    layer = sync_batch_norm.convert(case.build())
    assert type(layer) is sync_batch_norm.SyncBatchNorm
    return steps(layer, case, part_of(case))


CASES = {
    "2 ranks": Case(shares=SHARES[2]),
    "4 ranks": Case(),
    "equal shares": Case(shares=(2, 2, 2, 2)),
    "one sample each": Case(shares=(1, 1), size=(1, 1)),
    "momentum None": Case(options={"momentum": None}),
    "momentum 0.7": Case(options={"momentum": 0.7}),
    "large eps": Case(options={"eps": 1.0}),
    "not affine": Case(options={"affine": False}),
    "no running statistics": Case(options={"track_running_stats": False}),
    "evaluation": Case(training=False),
    "evaluation, momentum None": Case(training=False, options={"momentum": None}),
    "(N, C)": Case(layer=nn.BatchNorm1d, size=()),
    "(N, C, L)": Case(layer=nn.BatchNorm1d, size=(6,)),
    "5-D": Case(layer=nn.BatchNorm3d, size=(2, 3, 4)),
    "penalty": Case(penalty=True),
    "penalty, 2 ranks": Case(penalty=True, shares=SHARES[2]),
    "penalty, not affine": Case(penalty=True, options={"affine": False}),
    "penalty, evaluation": Case(penalty=True, training=False),
}


@pytest.mark.parametrize("name", CASES)
def test_equal_to_batch_norm_of_the_whole_batch(name, groups):
    case = CASES[name]
    found, summed, state = steps(case.build(), case)
    on_ranks = groups[len(case.shares)](steps_on_ranks, case)
    for key, whole in found.items():
        close(torch.cat([rank[0][key] for rank in on_ranks]), whole, key)
    for key, whole in summed.items():
        close(sum(rank[1][key] for rank in on_ranks), whole, key)
    for _, _, own_state in on_ranks:
        assert list(own_state) == list(state)
        for key, whole in state.items():
            close(own_state[key], whole, key)
            assert torch.equal(own_state[key], on_ranks[0][2][key])  # to the last bit


def close(found, expected, key, tolerance=1e-12):
    error = (found - expected).abs().max() / expected.abs().max().clamp(min=1)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert error < tolerance, f"{key}: {error}"


def test_share_wise_statistics_would_fail_that_test(groups):
    """Else it shows nothing: the same comparison with a batch norm for each rank."""
    case = CASES["4 ranks"]
    found, _, _ = steps(case.build(), case)
    apart = torch.cat([rank["output 0"] for rank in groups[4](outputs_of_plain_batch_norm, case)])
    assert (apart - found["output 0"]).abs().max() > 0.1


def outputs_of_plain_batch_norm(case):
    return steps(case.build(), case, part_of(case))[0]


def four_numbers():
    """Rank 0 has 0 and 2, rank 1 has 4 and 6."""
    layer = sync_batch_norm.convert(nn.BatchNorm1d(1, eps=0.0).double())
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64) + 4 * dist.get_rank()
    return layer(x).detach(), layer.running_mean, layer.running_var, layer.num_batches_tracked


def test_four_numbers_by_hand(groups):
    """Mean 3, variance 20/4 to normalise and 20/3 to remember, momentum 0.1 (nn.SyncBatchNorm)."""
    results = groups[2](four_numbers)
    output = torch.cat([result[0] for result in results])
    expected = torch.tensor([-3, -1, 1, 3], dtype=torch.float64) / 5**0.5
    assert torch.allclose(output.flatten(), expected, rtol=1e-14, atol=0)
    for _, mean, variance, batches in results:
        assert mean.item() == pytest.approx(0.9 * 0 + 0.1 * 3, rel=1e-14)
        assert variance.item() == pytest.approx(0.9 * 1 + 0.1 * 20 / 3, rel=1e-14)
        assert batches.item() == 1


def test_a_large_mean_costs_no_digits_in_float32(groups):
    """E[x²] - E[x]² would lose all of them here; batch norm's own error is the measure."""
    case = Case(dtype=torch.float32)
    exact, _, _ = steps(case.build().double(), replace(case, dtype=torch.float64))
    found = torch.cat([rank[0]["output 0"] for rank in groups[4](steps_on_ranks, case)])
    assert found.dtype == torch.float32
    assert (found - exact["output 0"]).abs().max() < 2e-5


def in_bfloat16():
    """As under autocast: a bfloat16 input, the layer in float32."""
    layer = sync_batch_norm.convert(nn.BatchNorm2d(3))
    x = Case(shares=(2, 2)).batch(0)[0].bfloat16()
    x = x[2 * dist.get_rank() :][:2].requires_grad_(True)
    output = layer(x)
    output.float().square().sum().backward()
    return output.detach(), x.grad, layer.running_mean


def test_half_precision_input_is_summed_in_float32(groups):
    layer = nn.BatchNorm2d(3)
    expected = layer(Case(shares=(2, 2)).batch(0)[0].bfloat16())
    results = groups[2](in_bfloat16)
    output = torch.cat([result[0] for result in results])
    assert output.dtype == expected.dtype == torch.bfloat16
    assert (output - expected).abs().max() < 0.02  # the last of 8 bits, near 2
    for _, gradient, mean in results:
        assert gradient.dtype == torch.bfloat16
        assert torch.allclose(mean, layer.running_mean, rtol=1e-6)


def without_bias():
    layer = nn.BatchNorm2d(3)
    layer.register_parameter("bias", None)  # BatchNorm2d(bias=False) of newer torch
    x = torch.arange(12.0).reshape(1, 3, 2, 2) + dist.get_rank()
    return sync_batch_norm.convert(layer)(x).detach()


def test_a_layer_with_weight_and_no_bias(groups):
    whole = torch.cat([torch.arange(12.0).reshape(1, 3, 2, 2) + rank for rank in range(2)])
    output = torch.cat(groups[2](without_bias))
    assert torch.allclose(output, nn.BatchNorm2d(3)(whole), atol=1e-6)


def one_dimension():
    with pytest.raises(ValueError, match="got 1 dim"):
        sync_batch_norm.convert(nn.BatchNorm1d(3))(torch.zeros(3))


def test_an_input_without_channels_is_refused(groups):
    groups[2](one_dimension)


# ---- conversion, which needs no ranks --------------------------------------------------------


def norms(net):
    return [
        module for module in net.modules() if isinstance(module, nn.modules.batchnorm._NormBase)
    ]


@pytest.mark.parametrize("layer", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_convert_keeps_settings_parameters_and_buffers(layer):
    """Optimizers were built before, so the very same Parameters must stay."""
    net = nn.Sequential(nn.Identity(), nn.ModuleDict({"a": nn.Sequential(layer(3, 0.5, 0.2))}))
    before = dict(net.named_parameters()), dict(net.named_buffers())
    net = sync_batch_norm.convert(net.eval())
    (norm,) = norms(net)
    assert type(norm) is sync_batch_norm.SyncBatchNorm
    assert (norm.eps, norm.momentum, norm.training) == (0.5, 0.2, False)
    for old, new in zip(before, (net.named_parameters(), net.named_buffers()), strict=True):
        new = dict(new)
        assert old.keys() == new.keys()
        assert all(new[key] is tensor for key, tensor in old.items())


def test_convert_of_a_batch_norm_itself_once_and_again():
    layer = nn.BatchNorm2d(3)
    once = sync_batch_norm.convert(layer)
    for converted in (once, sync_batch_norm.convert(once)):
        assert type(converted) is sync_batch_norm.SyncBatchNorm
        assert converted.weight is layer.weight and converted.running_var is layer.running_var


def test_convert_takes_what_the_user_converted_with_torch_and_leaves_instance_norm():
    net = nn.Sequential(nn.SyncBatchNorm(3), nn.InstanceNorm2d(3, affine=True))
    sync, instance = sync_batch_norm.convert(net)
    assert type(sync) is sync_batch_norm.SyncBatchNorm
    assert type(instance) is nn.InstanceNorm2d


def test_checkpoints_of_batch_and_syncbatch_interchange():
    torch.manual_seed(0)
    plain = networks.define_D(3, 4, "basic", norm="batch")
    converted = sync_batch_norm.convert(networks.define_D(3, 4, "basic", norm="syncbatch"))
    assert any(type(norm) is sync_batch_norm.SyncBatchNorm for norm in norms(converted))
    assert list(plain.state_dict()) == list(converted.state_dict())
    for source, target in ((plain, converted), (converted, plain)):
        nn.init.normal_(source.model[3].running_mean)
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        target.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(target.model[3].running_mean, source.model[3].running_mean)


def formats_on_rank(opt):
    """Whether the norms of a model that is set up on several ranks are given contiguous images."""
    model, seen = create_model(opt), []
    model.setup(opt)
    for net in model.named_networks().values():
        for norm in norms(net):
            assert type(norm) is sync_batch_norm.SyncBatchNorm
            norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].is_contiguous()))
    x = torch.zeros(1, 3, 128, 128)
    model.set_input({"A": x, "B": x, "A_paths": [""], "B_paths": [""]})
    model.optimize_parameters()
    return seen


def test_synchronised_norms_on_a_cpu_see_contiguous_float32(groups):
    """In channels_last torch sums a channel in one go, 80 times less exactly."""
    argv = ["--dataroot", "none", "--model", "pix2pix", *TINY, "--norm", "syncbatch"]
    opt = TrainOptions().parse([*argv, "--crop_size", "128", "--load_size", "128"])
    for seen in groups[2](formats_on_rank, opt):
        assert len(seen) > 20 and all(seen)


def test_copies_and_pickles():
    net = sync_batch_norm.convert(nn.Sequential(nn.BatchNorm2d(3)))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert type(twin[0]) is sync_batch_norm.SyncBatchNorm
        assert twin[0].weight is not net[0].weight
        assert torch.equal(twin[0].weight, net[0].weight)


@pytest.mark.parametrize("training", [True, False])
def test_in_one_process_it_is_batch_norm(training):
    case = Case(training=training)
    expected = steps(case.build(), case)
    found = steps(sync_batch_norm.convert(case.build()), case)
    for mine, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["4 ranks", "momentum None", "not affine", "penalty", "5-D"])
def test_the_same_on_cuda(name, groups):
    """The ranks share one GPU, joined by gloo."""
    on_cpu = groups[4](steps_on_ranks, CASES[name])
    on_cuda = groups[4](steps_on_ranks, replace(CASES[name], device="cuda"))
    for expected, found in zip(on_cpu, on_cuda, strict=True):
        for theirs, mine in zip(expected, found, strict=True):
            for key, value in theirs.items():
                close(mine[key].cpu(), value, key, tolerance=1e-10)
