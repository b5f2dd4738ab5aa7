"""Gradients of the default step and of its parts, against the textbook's step in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from formulas import formula_image
from torch import nn

from benchmarks.plain_step import PLAIN, plain_networks
from models import create_model
from models.networks import GENERATORS, NORMS, define_G
from models.networks.cpu_layers.instance_norm import instance_norm
from models.networks.norms import BatchNorm2d, InstanceNorm2d
from options.train_options import TrainOptions
from util import rng

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


# --- instance norm, the trap -------------------------------------------------------------------


def by_hand(x):
    """arXiv 1607.08022, equation 4."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) / ((x - mean).square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


def normed(norm, x, gradient, of_input, of_gradient):
    x = x.contiguous(memory_format=LAYOUTS[of_input]).requires_grad_()
    gradient = gradient.contiguous(memory_format=LAYOUTS[of_gradient])
    y = norm(x)
    return y.detach().double(), torch.autograd.grad(y, x, gradient)[0].double()


@pytest.mark.parametrize("of_gradient", LAYOUTS)
@pytest.mark.parametrize("of_input", LAYOUTS)
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instance_norm_is_right_in_every_layout(count, of_input, of_gradient, dtype):
    x = formula_image(count, 5, 9, 12) * 3 + 1
    gradient = formula_image(count, 5, 9, 12, phase=1.3)
    x, gradient = x.to(dtype), gradient.to(dtype)
    expected = normed(by_hand, x.double(), gradient.double(), "contiguous", "contiguous")
    found = normed(InstanceNorm2d(5), x, gradient, of_input, of_gradient)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < tolerance


@pytest.mark.parametrize("of_input", LAYOUTS)
@pytest.mark.parametrize("size", [(256, 256), (31, 31), (5, 200)])
def test_instance_norm_is_exact_on_large_pictures(size, of_input):
    """The mean of 65536 numbers in one running sum of float32 would be off by some 5e-6."""
    torch.manual_seed(0)
    x, gradient = torch.randn(2, 2, 4, *size, dtype=torch.float64)
    x = (x * 0.5 + 0.7).float()
    expected = normed(by_hand, x.double(), gradient.float().double(), *["contiguous"] * 2)
    found = normed(InstanceNorm2d(4), x, gradient.float(), of_input, "channels_last")
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 3e-7


@pytest.mark.parametrize("of_input", LAYOUTS)
@pytest.mark.parametrize("count", [1, 3])
def test_instance_norm_keeps_the_layout(count, of_input):
    x = formula_image(count, 4, 6, 5).float().contiguous(memory_format=LAYOUTS[of_input])
    assert instance_norm(x).is_contiguous(memory_format=LAYOUTS[of_input])


@pytest.mark.parametrize("of_input", LAYOUTS)
@pytest.mark.parametrize("count", [1, 3])
def test_instance_norm_can_be_differentiated_twice(count, of_input):
    """The gradient of |d <norm(x), w> / dx|^2, as in a gradient penalty."""

    def second(norm, x):
        x = x.contiguous(memory_format=LAYOUTS[of_input]).requires_grad_()
        w = formula_image(count, 4, 6, 5, 0.7).to(x.dtype)
        (first,) = torch.autograd.grad((norm(x) * w).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0].double()

    x = formula_image(count, 4, 6, 5)
    expected = second(by_hand, x)
    found = second(instance_norm, x.float())
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_instance_norm_with_weights_or_running_statistics_is_torch_s():
    x = formula_image(2, 3, 6, 5).float().contiguous(memory_format=torch.channels_last)
    for options in ({"affine": True}, {"track_running_stats": True}):
        ours, theirs = InstanceNorm2d(3, **options), nn.InstanceNorm2d(3, **options)
        assert torch.equal(ours(x), theirs(x.contiguous()))
        assert ours.state_dict().keys() == theirs.state_dict().keys()


# --- batch norm --------------------------------------------------------------------------------


def batch_norms(count, height, width, momentum=0.1, seed=0):
    """Ours in channels_last, and torch's in float64, with the same random weights."""
    torch.manual_seed(seed)
    ours = BatchNorm2d(4, momentum=momentum)
    nn.init.normal_(ours.weight), nn.init.normal_(ours.bias)
    theirs = nn.BatchNorm2d(4, momentum=momentum).double()
    theirs.load_state_dict(ours.state_dict())
    x, noise = torch.randn(2, count, 4, height, width) * 0.5 + 0.7
    gradient = noise + x  # sums that do not cancel
    return ours, theirs, x.contiguous(memory_format=torch.channels_last), gradient


@pytest.mark.parametrize("of_gradient", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 256, 256), (3, 40, 31)])
def test_batch_norm_is_exact_in_channels_last(size, of_gradient):
    """Torch's own kernel is off by some 5e-6 for 256x256 pixels."""
    ours, theirs, x, gradient = batch_norms(*size)
    gradient = gradient.contiguous(memory_format=LAYOUTS[of_gradient])

    def results(norm, x, gradient):
        x.requires_grad_()
        y = norm(x)
        gradients = torch.autograd.grad(y, (x, norm.weight, norm.bias), gradient)
        return [y.detach(), *gradients, norm.running_mean, norm.running_var]

    found = results(ours, x, gradient)
    expected = results(theirs, x.double(), gradient.double())
    errors = [float((f - e).norm() / e.norm()) for f, e in zip(found, expected, strict=True)]
    assert max(errors) < 5e-7, errors
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_batch_norm_of_few_pixels_is_torch_s():
    ours, _, x, _ = batch_norms(2, 8, 5)
    theirs = nn.BatchNorm2d(4)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("momentum", [0.3, None])
def test_batch_norm_keeps_torch_s_running_statistics(momentum):
    ours, theirs, *_ = batch_norms(2, 40, 31, momentum)
    for seed in range(3):
        x = batch_norms(2, 40, 31, seed=seed)[2]
        ours(x), theirs(x.double())
    assert ours.num_batches_tracked == theirs.num_batches_tracked == 3
    torch.testing.assert_close(ours.running_mean.double(), theirs.running_mean)
    torch.testing.assert_close(ours.running_var.double(), theirs.running_var)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x).double(), theirs(x.double()), rtol=1e-5, atol=1e-5)


def test_batch_norm_can_be_differentiated_twice():
    def second(norm, x, w):
        x = x.requires_grad_()
        (first,) = torch.autograd.grad((norm(x) * w).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), (x, norm.weight))

    ours, theirs, x, w = batch_norms(2, 33, 32)
    found, expected = second(ours, x, w), second(theirs, x.double(), w.double())
    for our, its in zip(found, expected, strict=True):
        assert float((our - its).norm() / its.norm()) < 1e-5


# --- somebody's own layers around one of our networks ------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_layers_around_a_network_in_channels_last_see_contiguous_tensors_only(count):
    """torch's own instance norm before and after: with other layouts its gradients are wrong."""
    torch.manual_seed(0)
    before = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.InstanceNorm2d(3))
    after = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Conv2d(4, 1, 1))
    ours = define_G(3, 3, 4, "resnet_6blocks", "instance")
    ours.computes_in_channels_last = True
    x = formula_image(count, 3, 24, 20)

    def gradients(before, ours, after, x):
        (after(ours(before(x))) * formula_image(count, 1, 24, 20, 1.0).to(x.dtype)).sum().backward()
        nets = (before, ours, after)
        return torch.cat([p.grad.double().flatten() for net in nets for p in net.parameters()])

    double = [copy.deepcopy(net).double() for net in (before, ours, after)]
    expected = gradients(*double, x)
    found = gradients(before, ours, after, x.float())
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    x = x.float().requires_grad_()
    out = ours(x)
    out.square().sum().backward()
    assert out.is_contiguous() and x.grad.is_contiguous()


# --- the whole step ----------------------------------------------------------------------------


def build(name, *more):
    rng.seed_everything(3)
    tiny = [a for a in TINY if a not in ("--netG", "resnet_6blocks")]
    argv = ["--dataroot", "none", "--model", name, *tiny, "--no_dropout", "--pool_size", "0", *more]
    opt = TrainOptions().parse([*argv, "--init_gain", "0.1"])
    model = create_model(opt)
    model.setup(opt)
    return model


def batch_of(count, size, number=0):
    a, b = (formula_image(count, 3, size, size, phase + number) for phase in (0.4, 2.2))
    paths = [""] * count
    return {"A": a.float(), "B": b.float(), "A_paths": paths, "B_paths": paths}


def gradients_of(nets):
    """By parameter; without biases before an instance norm, whose gradients are rounding alone."""
    return {
        f"{name}.{key}": p.grad.double()
        for name, net in nets.items()
        for key, p in net.named_parameters()
        if p.grad is not None
    }


def error(found, expected, keys):
    """Relative, over all parameters but those of which float64 says that they have no gradient."""
    difference = sum(float((found[k] - expected[k]).square().sum()) for k in keys)
    return (difference / sum(float(expected[k].square().sum()) for k in keys)) ** 0.5


def plain_gradients(model, batch, dtype):
    nets = {name: net.to(dtype) for name, net in plain_networks(model).items()}
    plain = PLAIN[model.opt.model](nets, model.opt.gan_mode, lr=0.0)
    plain.step(batch["A"].to(dtype), batch["B"].to(dtype))
    return gradients_of(nets)


def errors_of_step(name, batch, *argv, layout=torch.contiguous_format):
    """Relative errors of the gradients: (our step, the plain step), both in float32."""
    model = build(name, "--lr", "0", *argv)
    for net in model.named_networks().values():
        net.to(memory_format=layout)
    exact = plain_gradients(model, batch, torch.float64)
    plain = plain_gradients(model, batch, torch.float32)
    model.train_on(batch)
    ours = gradients_of(model.named_networks())
    keys = [k for k in exact if float(exact[k].norm()) > 1e-9]
    assert ours.keys() == exact.keys() and len(keys) > len(exact) / 3
    return error(ours, exact, keys), error(plain, exact, keys)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_weights_in_channels_last_change_nothing(norm):
    argv = ["--netG", "resnet_6blocks", "--norm", norm, "--batch_size", "1"]
    ours, plain = errors_of_step("pix2pix", batch_of(1, 32), *argv, layout=torch.channels_last)
    assert ours < 4 * plain


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "syncbatch"])
@pytest.mark.parametrize("netG", GENERATORS)
@pytest.mark.parametrize("name", PLAIN)
def test_the_default_step_is_as_near_to_float64_as_the_plain_one(name, netG, norm, count):
    """For one of four batches: a wrong gradient is wrong for all of them.

    By chance, a rounding of 1e-7 puts an activation or a difference on the other side of the kink
    of a ReLU or of L1, in our step or in the plain one, and moves its gradient by 1e-4.
    """
    size = max(32, GENERATORS[netG].minimum)
    size_of = ["--crop_size", str(size), "--load_size", str(size)]
    argv = [*size_of, "--netG", netG, "--norm", norm, "--batch_size", str(count)]
    for attempt in range(4):
        ours, plain = errors_of_step(name, batch_of(count, size, attempt), *argv)
        print(f"{name} {netG} {norm} {count}: ours {ours:.1e}, plain {plain:.1e}")
        if ours < 2 * plain:
            return
    pytest.fail("the gradients of four batches are all less exact than the plain step's")


def test_the_trap_would_be_seen(monkeypatch):
    """F.instance_norm in channels_last at batch 1: losses agree, gradients do not."""
    monkeypatch.setattr(
        "models.networks.norms.instance_norm", lambda x, eps: F.instance_norm(x, eps=eps)
    )
    argv = ["--netG", "resnet_6blocks", "--norm", "instance", "--batch_size", "1"]
    ours, plain = errors_of_step("pix2pix", batch_of(1, 32), *argv, layout=torch.channels_last)
    assert ours > 0.1 or torch.__version__ < "2.15"
