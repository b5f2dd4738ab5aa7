"""models/networks/cpu_layers: the norms against the textbook, and how layers are swapped."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from formulas import formula_image
from torch import nn

from models.networks import cal_gradient_penalty, cpu_layers, define_D, define_G
from models.networks.cpu_layers import small_maps, winograd
from models.networks.cpu_layers.norms import BatchNorm2d, InstanceNorm2d
from util.distributed import sync_batch_norm

CPU = torch.device("cpu")
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
NETS = {
    "resnet": lambda norm="instance": define_G(3, 3, 4, "resnet_6blocks", norm, init_gain=0.1),
    "unet": lambda norm="instance": define_G(3, 3, 4, "unet_128", norm, init_gain=0.1),
    "patchgan": lambda norm="instance": define_D(3, 4, "basic", norm=norm, init_gain=0.1),
    "pixel": lambda norm="instance": define_D(3, 4, "pixel", norm=norm, init_gain=0.1),
}


def relative(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


# --- instance norm -----------------------------------------------------------------------------


def by_hand(x):
    """arXiv 1607.08022, equation 4."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) / ((x - mean).square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


def normed(norm, x, gradient, of_input, of_gradient):
    x = x.contiguous(memory_format=FORMATS[of_input]).requires_grad_()
    gradient = gradient.contiguous(memory_format=FORMATS[of_gradient])
    y = norm(x)
    return y.detach(), torch.autograd.grad(y, x, gradient)[0]


@pytest.mark.parametrize("of_gradient", FORMATS)
@pytest.mark.parametrize("of_input", FORMATS)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instance_norm_is_right_in_every_memory_format(count, of_input, of_gradient, dtype):
    x = (formula_image(count, 5, 9, 12) * 3 + 1).to(dtype)
    gradient = formula_image(count, 5, 9, 12, phase=1.3).to(dtype)
    expected = normed(by_hand, x.double(), gradient.double(), "contiguous", "contiguous")
    found = normed(InstanceNorm2d(5), x, gradient, of_input, of_gradient)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert max(map(relative, found, expected)) < tolerance
    assert found[0].is_contiguous(memory_format=FORMATS[of_input])


@pytest.mark.parametrize("of_input", FORMATS)
@pytest.mark.parametrize("size", [(256, 256), (5, 200)])
def test_instance_norm_is_exact_on_large_images(size, of_input):
    """The mean of 65536 numbers in one running sum of float32 would be off by some 5e-6."""
    torch.manual_seed(0)
    x, gradient = torch.randn(2, 2, 4, *size)
    x = x * 0.5 + 0.7
    expected = normed(by_hand, x.double(), gradient.double(), "contiguous", "contiguous")
    found = normed(InstanceNorm2d(4), x, gradient, of_input, "channels_last")
    assert max(map(relative, found, expected)) < 3e-7


@pytest.mark.parametrize("of_input", FORMATS)
@pytest.mark.parametrize("count", [1, 3])
def test_instance_norm_can_be_differentiated_twice(count, of_input):
    """The gradient of |d <norm(x), w> / dx|^2, as in a gradient penalty."""

    def second(norm, x):
        x = x.contiguous(memory_format=FORMATS[of_input]).requires_grad_()
        w = formula_image(count, 4, 6, 5, 0.7).to(x.dtype)
        (first,) = torch.autograd.grad((norm(x) * w).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    x = formula_image(count, 4, 6, 5)
    assert relative(second(InstanceNorm2d(4), x.float()), second(by_hand, x)) < 1e-5


def test_instance_norm_with_weights_or_running_statistics_is_torch_s():
    x = formula_image(2, 3, 6, 5).float().contiguous(memory_format=torch.channels_last)
    for options in ({"affine": True}, {"track_running_stats": True}):
        ours, theirs = InstanceNorm2d(3, **options), nn.InstanceNorm2d(3, **options)
        assert torch.equal(ours(x), theirs(x.contiguous()))


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


@pytest.mark.parametrize("of_gradient", FORMATS)
@pytest.mark.parametrize("size", [(1, 256, 256), (3, 40, 31)])
def test_batch_norm_is_exact_in_channels_last(size, of_gradient):
    """Torch's own kernel is off by some 5e-6 for 256x256 pixels."""
    ours, theirs, x, gradient = batch_norms(*size)
    gradient = gradient.contiguous(memory_format=FORMATS[of_gradient])

    def results(norm, x, gradient):
        x.requires_grad_()
        y = norm(x)
        gradients = torch.autograd.grad(y, (x, norm.weight, norm.bias), gradient)
        return [y.detach(), *gradients, norm.running_mean, norm.running_var]

    found = results(ours, x, gradient)
    expected = results(theirs, x.double(), gradient.double())
    assert max(map(relative, found, expected)) < 5e-7
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
    assert max(map(relative, found, expected)) < 1e-5


# --- swapping ----------------------------------------------------------------------------------


def classes(net):
    return [type(module) for module in net.modules()]


def formats_in(net, x):
    """Whether each norm layer of `net` is given channels_last."""
    seen, handles = [], []
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            handles.append(layer.register_forward_pre_hook(
                lambda _, args: seen.append(not args[0].is_contiguous())
            ))  # fmt: skip
    net(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("name", NETS)
def test_what_is_swapped_in_and_out_again_is_torch_s(name, norm):
    """Modules, parameters, hooks and keys are the same ones all the way."""
    net = NETS[name](norm)
    before, modules, called = classes(net), list(net.modules()), []
    parameters, keys = list(net.parameters()), list(net.state_dict())
    net.register_forward_hook(lambda *_: called.append("network"))
    modules[-1].register_forward_hook(lambda *_: called.append("layer"))
    cpu_layers.swap_in(net, CPU, "fp32")
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert list(net.state_dict()) == keys and classes(net) != before
    net(torch.zeros(1, 3, 128, 128))
    assert called == ["layer", "network"]
    for layer, plain in zip(net.modules(), before, strict=True):
        assert isinstance(layer, plain)  # what looks for torch's classes finds them
    swapped = classes(net)
    cpu_layers.swap_in(net, CPU, "fp32")
    assert classes(net) == swapped
    cpu_layers.swap_out(net)
    assert classes(net) == before


@pytest.mark.parametrize("name", NETS)
def test_swapped_networks_can_be_copied_and_pickled(name):
    net = NETS[name]()
    cpu_layers.swap_in(net, CPU, "fp32")
    x = formula_image(1, 3, 128, 128).float()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert classes(twin) == classes(net) and torch.equal(twin(x), net(x))


@pytest.mark.parametrize("name", NETS)
def test_networks_in_channels_last_are_contiguous_outside(name):
    net = NETS[name]()
    cpu_layers.swap_in(net, CPU, "fp32")
    x = formula_image(1, 3, 128, 128).float().requires_grad_()
    assert all(formats_in(net, x)[:1])
    out = net(x)
    out.square().sum().backward()
    assert out.is_contiguous() and x.grad.is_contiguous()


@pytest.mark.parametrize("device, precision, training, last", [
    ("cpu", "fp32", True, True), ("cpu", "bf16", True, True), ("cpu", "fp32", False, False),
    ("cuda", "fp32", True, False), ("cuda", "tf32", True, False), ("cuda", "bf16", True, True),
    ("cuda", "fp16", True, True), ("mps", "bf16", True, False),
])  # fmt: skip
def test_channels_last_is_chosen_where_it_gains(device, precision, training, last):
    net = NETS["patchgan"]("batch")
    cpu_layers.swap_in(net, torch.device(device), precision, training)
    assert any(formats_in(net, torch.zeros(1, 3, 128, 128))) is last


@pytest.mark.parametrize("device, last", [("cpu", True), ("cuda", False)])
def test_a_resnet_stays_contiguous_on_cuda(device, last):
    """Its reflection padding returns contiguous images there."""
    net = NETS["resnet"]()
    cpu_layers.swap_in(net, torch.device(device), "bf16")
    assert any(formats_in(net, torch.zeros(1, 3, 128, 128))) is last


@pytest.mark.parametrize("precision, last", [("fp32", False), ("bf16", True)])
def test_a_norm_that_is_not_exact_in_channels_last_never_sees_it_in_float32(precision, last):
    """SyncBatchNorm sums a channel in one go: the network it is in stays contiguous."""
    net = sync_batch_norm.convert(NETS["patchgan"]("syncbatch"))
    cpu_layers.swap_in(net, CPU, precision)
    assert any(formats_in(net, torch.zeros(1, 3, 128, 128))) is last


def test_only_networks_of_this_program_are_swapped():
    own = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.InstanceNorm2d(3), NETS["resnet"]())
    before = classes(own)
    cpu_layers.swap_in(own, CPU, "fp32")
    assert classes(own)[:3] == before[:3] and classes(own)[3:] != before[3:]


def test_a_convolution_of_other_settings_stays_torch_s():
    net = NETS["resnet"]()
    net.model[10].conv_block[1] = nn.Conv2d(16, 16, 3, groups=2)
    net.model[11].conv_block[1] = nn.Conv2d(16, 16, 3, padding_mode="reflect")
    net.model[12].conv_block[1] = nn.Conv2d(16, 16, 3, dilation=2, padding=1)
    cpu_layers.swap_in(net, CPU, "fp32")
    assert all(type(net.model[n].conv_block[1]) is nn.Conv2d for n in (10, 11, 12))
    assert type(net.model[13].conv_block[1]) is winograd.Conv3x3


def test_a_resnet_uses_winograd_and_a_unet_products(monkeypatch):
    """Otherwise the tests of whole networks would compare torch's kernels with themselves."""
    used = []
    monkeypatch.setattr(winograd, "CHANNELS", 1)
    monkeypatch.setattr(winograd, "TILES", 1)
    apply, mm = winograd.Winograd.apply, torch.mm
    monkeypatch.setattr(winograd.Winograd, "apply", lambda *a: used.append("w") or apply(*a))
    monkeypatch.setattr(torch, "mm", lambda *a: used.append("mm") or mm(*a))
    for name, expected in (("resnet", ["w"] * 12), ("unet", ["mm"] * 10)):
        net = NETS[name]()
        cpu_layers.swap_in(net, CPU, "fp32")
        used.clear()
        net(torch.zeros(1, 3, 128, 128))
        assert used == expected
    assert small_maps.PIXELS == 256


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("name", ["patchgan", "pixel"])
def test_a_gradient_penalty_goes_through_swapped_layers(name, norm, monkeypatch):
    """Second derivatives, against torch's layers in float64; softplus has no kinks."""
    monkeypatch.setattr(
        F, "leaky_relu", lambda x, slope, _: slope * x + (1 - slope) * F.softplus(x)
    )
    torch.manual_seed(0)
    plain = NETS[name](norm).double()
    swapped = copy.deepcopy(plain).float()
    cpu_layers.swap_in(swapped, CPU, "fp32")
    real, fake = formula_image(1, 3, 40, 36), formula_image(1, 3, 40, 36, 2.0)

    def gradients(net, dtype):
        cal_gradient_penalty(net, real.to(dtype), fake.to(dtype), "cpu", "real")[0].backward()
        return {k: p.grad for k, p in net.named_parameters() if p.grad is not None}

    found, expected = gradients(swapped, torch.float32), gradients(plain, torch.float64)
    keys = [key for key in expected if expected[key].norm() > 1e-9]  # biases before norms have none
    assert found.keys() == expected.keys() and len(keys) > 2
    assert max(relative(found[key], expected[key]) for key in keys) < 1e-4


@pytest.mark.parametrize("count", [1, 2])
def test_layers_around_a_network_in_channels_last_see_contiguous_tensors_only(count):
    """torch's own instance norm before and after: with other formats its gradients are wrong."""
    torch.manual_seed(0)
    before = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.InstanceNorm2d(3))
    after = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Conv2d(4, 1, 1))
    nets = nn.Sequential(before, NETS["resnet"](), after)
    x, weights = formula_image(count, 3, 24, 20), formula_image(count, 1, 24, 20, 1.0)

    def gradients(net, dtype):
        (net(x.to(dtype)) * weights.to(dtype)).sum().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    expected = gradients(copy.deepcopy(nets).double(), torch.float64)
    cpu_layers.swap_in(nets, CPU, "fp32")
    assert relative(gradients(nets, torch.float32), expected) < 1e-4
