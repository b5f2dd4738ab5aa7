"""The faster convolutions for CPUs, against torch's own in float64."""

import pytest
import torch
import torch.nn.functional as F
from formulas import formula_image
from torch import nn

from models.networks.cpu_layers import small_maps, winograd
from models.networks.cpu_layers.norms import BatchNorm2d
from models.networks.cpu_layers.small_maps import DoublingConv, HalvingConv
from models.networks.cpu_layers.winograd import Conv3x3

LAST = torch.channels_last


@pytest.fixture(autouse=True)
def always_chosen(monkeypatch):
    """However few the channels and pixels; and few of them at a time."""
    monkeypatch.setattr(winograd, "CHANNELS", 1)
    monkeypatch.setattr(winograd, "TILES", 1)


def results(convolve, x, *parameters):
    """The output and all gradients, of a loss that weighs each pixel differently."""
    x = x.detach().requires_grad_()
    y = convolve(x)
    loss = (y * formula_image(*y.shape, phase=0.9).to(y.dtype)).sum()
    return [y.detach(), *torch.autograd.grad(loss, (x, *parameters))]


def errors(conv, reference, x):
    """Relative, of the output and the gradients by input, weight and bias."""
    parameters = list(conv.parameters())
    found = results(conv, x, *parameters)
    double = [p.detach().double().requires_grad_() for p in parameters]
    expected = results(lambda x: reference(x, *double), x.double(), *double)
    assert [t.shape for t in found] == [t.shape for t in expected]
    return [float((f - e).norm() / e.norm()) for f, e in zip(found, expected, strict=True)]


SIZES = [(1, 8, 12), (3, 7, 9), (2, 3, 3), (1, 33, 6)]


@pytest.mark.parametrize("band", [1, 2**22])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("count, height, width", SIZES)
def test_winograd_is_the_convolution(count, height, width, padding, bias, band, monkeypatch):
    """A band of one number is a band of one row of tiles."""
    monkeypatch.setattr(winograd, "BAND", band)
    torch.manual_seed(0)
    conv = Conv3x3(5, 7, 3, padding=padding, bias=bias)
    x = formula_image(count, 5, height, width).float().contiguous(memory_format=LAST)
    assert conv._is_faster(x, 1)

    def reference(x, *parameters):
        return F.conv2d(x, *parameters, padding=padding)

    assert max(errors(conv, reference, x)) < 1e-6
    assert conv(x).is_contiguous(memory_format=LAST)


def test_winograd_is_as_exact_as_torch_s_kernels():
    """256 channels of 32x32, as in a residual block: at most three times the error of either."""
    torch.manual_seed(0)
    conv = Conv3x3(256, 256, 3)
    x = torch.rand(1, 256, 34, 34).contiguous(memory_format=LAST)
    ours = errors(conv, F.conv2d, x)
    winograd.CHANNELS = 10**6
    plain = errors(conv, F.conv2d, x.contiguous())
    for our, its in zip(ours, plain, strict=True):
        assert our < max(3 * its, 1e-6)


def test_winograd_can_be_differentiated_twice():
    torch.manual_seed(0)
    conv = Conv3x3(3, 4, 3)
    x = formula_image(2, 3, 8, 8)

    def second(convolve, x, weight):
        x = x.requires_grad_()
        (first,) = torch.autograd.grad(convolve(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), (x, weight))

    found = second(conv, x.float().contiguous(memory_format=LAST), conv.weight)
    weight, bias = (p.detach().double().requires_grad_() for p in conv.parameters())
    expected = second(lambda x: F.conv2d(x, weight, bias), x, weight)
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


@pytest.mark.parametrize("frozen", ["input", "weights"])
@pytest.mark.parametrize("layer", ["convolution", "norm"])
def test_frozen_inputs_and_weights_get_no_gradients(layer, frozen):
    layer = Conv3x3(3, 3, 3) if layer == "convolution" else BatchNorm2d(3)
    x = formula_image(1, 3, 34, 34).float().contiguous(memory_format=LAST)
    learning = list(layer.parameters()) if frozen == "input" else [x]
    layer.requires_grad_(frozen == "input")
    x.requires_grad_(frozen == "weights")
    for create_graph in (False, True):
        found = torch.autograd.grad(layer(x).square().sum(), learning, create_graph=create_graph)
        assert all(torch.isfinite(gradient).all() for gradient in found)


@pytest.mark.parametrize("shape", [(1, 10, 8, 3), (5, 4, 6, 2), (2, 66, 66, 256)])
@pytest.mark.parametrize("band", [1, 500, 2**21, 2**30])
def test_bands_cover_each_pixel_once(shape, band, monkeypatch):
    monkeypatch.setattr(winograd, "BAND", band)
    seen = torch.zeros(shape[0], shape[1] - 2)
    for images, band_of_x, band_of_y in winograd.bands(torch.empty(shape, device="meta")):
        seen[images, band_of_y] += 1
        start, end, _ = band_of_y.indices(shape[1] - 2)
        assert (start % 2, end % 2) == (0, 0)
        assert (band_of_x.start, band_of_x.stop) == (start, end + 2)
    assert torch.equal(seen, torch.ones_like(seen))


def test_winograd_is_left_to_channels_last_float32():
    conv = Conv3x3(4, 4, 3)
    x = torch.zeros(1, 4, 8, 8)
    last = x.contiguous(memory_format=LAST)
    assert conv._is_faster(last, 9)
    assert not conv._is_faster(x, 9)
    assert not conv._is_faster(last.double(), 9)
    with torch.autocast("cpu", torch.bfloat16):
        assert not conv._is_faster(last, 9)
    winograd.TILES = 10
    assert not conv._is_faster(last, 9)


def never(*arguments, **options):
    raise AssertionError("the other way was taken")


PAIRS = {
    HalvingConv: lambda x, *parameters: F.conv2d(x, *parameters, stride=2, padding=1),
    DoublingConv: lambda x, *parameters: F.conv_transpose2d(x, *parameters, stride=2, padding=1),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count, height, width", [(1, 2, 2), (3, 4, 6), (2, 7, 5), (1, 16, 16)])
@pytest.mark.parametrize("kind", PAIRS)
def test_products_are_the_convolution(kind, count, height, width, bias, memory_format, monkeypatch):
    torch.manual_seed(0)
    conv = kind(5, 6, 4, 2, 1, bias=bias)
    x = formula_image(count, 5, height, width).float().contiguous(memory_format=memory_format)
    with monkeypatch.context() as patch:
        patch.setattr(nn.Conv2d, "forward", never)
        patch.setattr(nn.ConvTranspose2d, "forward", never)
        conv(x)
    assert max(errors(conv, PAIRS[kind], x)) < 1e-6


def test_large_maps_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(torch, "mm", never)
    halve, double = HalvingConv(2, 3, 4, 2, 1), DoublingConv(3, 2, 4, 2, 1)
    x = torch.zeros(1, 2, 34, 32)  # 17x16 pixels at the smaller end
    assert small_maps.PIXELS == 256
    assert double(halve(x)).shape == x.shape
