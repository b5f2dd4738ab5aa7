"""Images of any size, whole and in tiles: against the forward pass that sees all of them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from models import networks
from models.inference import any_size, features, tiling
from models.inference.any_size import reflected, take_any_size
from models.inference.batching import normalize_per_image
from models.inference.features import Work
from models.inference.half_precision import to_half_precision
from models.inference.tiling import translate_in_bands, translate_in_tiles
from models.networks import cpu_layers
from models.networks.generators import ResnetGenerator
from models.networks.norms import get_norm_layer

EXACT = 1e-9  # in float64, where rounding does not hide a pixel


def generator(netG="resnet_6blocks", norm="instance", trained=False, **more):
    """A small network in float64; `trained` has norms with statistics, in evaluation."""
    torch.manual_seed(0)
    net = networks.define_G(3, 2, 5, netG, norm, init_gain=0.3, **more).double()
    for module in net.modules():
        if getattr(module, "weight", None) is not None and module.weight.dim() == 1:
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    if trained:
        with torch.no_grad():
            for _ in range(20):
                net(noise(64, 64))
        net.eval()
    elif norm == "batch":
        normalize_per_image([net])
    return net


def noise(*size, seed=0, count=1):
    return (
        torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
    )


@pytest.fixture(params=["memory", "file"])
def where(request, monkeypatch):
    """Where features wait."""
    monkeypatch.setattr(features, "IN_MEMORY", 1 << 40 if request.param == "memory" else 0)


@torch.no_grad()
def in_bands(net, image, numbers):
    return translate_in_bands(net, image, Work(numbers))


# --- ResNets: the same image


@pytest.mark.parametrize("numbers", [1, 900, 10**9], ids=["rows", "bands", "whole"])
@pytest.mark.parametrize("netG, norm, trained", [
    ("resnet_6blocks", "instance", False), ("resnet_9blocks", "instance", False),
    ("resnet_6blocks", "batch", False), ("resnet_6blocks", "batch", True),
    ("resnet_6blocks", "none", False),
])  # fmt: skip
def test_bands_give_the_image_of_the_whole_pass(where, netG, norm, trained, numbers):
    net = generator(netG, norm, trained)
    for size in ((37, 22), (32, 32), (5, 61)) if numbers > 1 else ((23, 14),):
        image = noise(*size)
        with torch.no_grad():
            whole = net(image)
        assert whole.std() > 1e-4
        assert (in_bands(net, image, numbers) - whole).abs().max() < EXACT


@pytest.mark.parametrize("padding_type", ["replicate", "zero"])
def test_bands_know_every_padding(padding_type):
    torch.manual_seed(0)
    norm = get_norm_layer("instance")
    net = ResnetGenerator(3, 2, 4, norm, n_blocks=2, padding_type=padding_type).double()
    image = noise(35, 22)
    with torch.no_grad():
        whole = net(image)
    assert (in_bands(net, image, 500) - whole).abs().max() < EXACT


def test_bands_of_the_faster_layers_in_float32():
    """Winograd takes 192 channels; the limit in levels is that of a large image."""
    torch.manual_seed(0)
    net = networks.define_G(3, 3, 48, "resnet_6blocks", "instance")
    cpu_layers.swap_in(net, torch.device("cpu"), "fp32", training=False)
    image = noise(97, 130).float()
    with torch.no_grad():
        difference = (in_bands(net, image, 200_000) - net(image)).abs() * 127.5
    assert difference.mean() < 0.02 and difference.max() <= 1


def test_each_image_of_a_batch_has_its_own_statistics():
    net = generator()
    batch = torch.cat([noise(24, 20, seed=1), noise(24, 20, seed=2) * 0.2])
    with torch.no_grad():
        whole = net(batch)
        take_any_size([net], 16, 16)
        assert (net(batch) - whole).abs().max() < EXACT


def test_dropout_drops_half_in_bands_too():
    net = generator(use_dropout=True)
    torch.manual_seed(1)
    once, again = in_bands(net, noise(32, 32), 900), in_bands(net, noise(32, 32), 900)
    assert (once - again).abs().max() > 1e-3
    net.eval()
    with torch.no_grad():
        assert (in_bands(net, noise(32, 32), 900) - net(noise(32, 32))).abs().max() < EXACT


@pytest.mark.parametrize("netG, size", [("resnet_6blocks", (40, 33)), ("unet_128", (128, 128))])
def test_tiles_in_bfloat16(where, netG, size):
    net = generator(netG).float()
    image = noise(*size).float()
    with torch.no_grad():
        exact = net(image)
        half = copy.deepcopy(net)
        to_half_precision([half], torch.bfloat16)
        take_any_size([net], 16, 16)
        to_half_precision([net], torch.bfloat16)
        assert (net(image) - exact).abs().mean() < 2 * (half(image) - exact).abs().mean() + 1e-3


# --- U-Nets


def unet(norm="batch"):
    return generator("unet_128", norm)


def test_one_tile_is_the_forward_pass(where):
    net, image = unet(), noise(128, 128)
    with torch.no_grad():
        tiled = translate_in_tiles(net, image, 128, Work(1000))
        assert (tiled - net(image)).abs().max() < EXACT


class Joint(nn.Module):
    """Instance norm with the statistics of all tiles of a batch: batch norm, in training."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        norm = self.norm
        return nn.functional.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


def test_tiles_share_the_statistics_of_the_whole_image(where):
    net, image = unet(), noise(128, 200)
    joint = copy.deepcopy(net)
    for parent in list(joint.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.InstanceNorm2d):
                setattr(parent, name, Joint(child))
    left, right = image[..., :128], image[..., 72:]
    with torch.no_grad():
        tiles = joint(torch.cat([left, right]))
        found = translate_in_tiles(net, image, 128, Work(1000))
    assert (found[..., :72] - tiles[:1, ..., :72]).abs().max() < EXACT  # where only one tile is
    assert (found[..., 128:] - tiles[1:, ..., 56:]).abs().max() < EXACT
    between = torch.stack([tiles[0, ..., 72:], tiles[1, ..., :56]])
    inside = found[0, ..., 72:128]
    assert (inside <= between.max(0).values + EXACT).all()
    assert (inside >= between.min(0).values - EXACT).all()


def test_no_seam_is_seen_where_tiles_begin():
    """The mean step from column to column, of many rows, beside that of all columns."""
    net = unet()
    y, x = torch.meshgrid(torch.arange(700.0), torch.arange(700.0), indexing="ij")
    image = torch.stack([(x / 31).sin(), (y / 17).cos(), ((x + y) / 23).sin()])[None].double()
    with torch.no_grad():
        found = translate_in_tiles(net, image, 128, Work())
    steps = found.diff(dim=3).abs().mean((0, 1, 2))
    starts = tiling._starts(700, 128)[1:]
    ends = [start + 128 for start in tiling._starts(700, 128)[:-1]]
    at_borders = np.mean([steps[place - 1].item() for place in (*starts, *ends)])
    assert abs(at_borders / steps.mean().item() - 1) < 0.02


@pytest.mark.parametrize("size", [64, 100, 128, 129, 1000])
def test_tiles_cover_everything_and_overlap(size):
    starts = tiling._starts(max(size, 64), 64)
    assert starts[0] == 0 and starts[-1] + 64 == max(size, 64)
    assert all(0 < b - a <= 48 for a, b in zip(starts, starts[1:], strict=False))


# --- any size


@pytest.mark.parametrize("tile", [None, 0, 128])
@pytest.mark.parametrize("netG", ["unet_128", "resnet_6blocks"])
def test_the_output_has_the_size_of_the_input(netG, tile):
    net = generator(netG)
    take_any_size([net], tile, 128)
    for size in ((1, 1), (3, 150), (67, 45), (128, 128)):
        with torch.no_grad():
            assert net(noise(*size, count=2)).shape == (2, 2, *size)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3), (11, 8)])
def test_reflection_goes_on_as_in_numpy(size):
    image = noise(*size)
    expected = np.pad(image[0, 0].numpy(), ((0, 13 - size[0]), (0, 9 - size[1])), mode="reflect")
    assert np.array_equal(reflected(image, 13, 9)[0, 0].numpy(), expected)


def test_a_fitting_image_goes_through_as_it_is():
    net = unet()
    with torch.no_grad():
        plain = net(noise(128, 256))
        take_any_size([net], None, 128)
        assert torch.equal(net(noise(128, 256)), plain)


@pytest.mark.parametrize("available, tiled", [(None, False), (1 << 40, False), (1 << 28, True)])
def test_tiles_are_chosen_where_memory_is_short(monkeypatch, capsys, available, tiled):
    net = generator().float()
    monkeypatch.setattr(any_size, "available_memory", lambda device: available)
    monkeypatch.setattr(any_size, "translate_in_bands", lambda net, image, work: image[:, :2] * 0)
    take_any_size([net], None, 128)
    monkeypatch.setattr(net.forward, "forward", lambda x: x[:, :2] * 0 + 1)
    large = torch.zeros(1, 3, 2048, 2048)
    assert (net(large).mean() == 0) == tiled
    assert net(torch.zeros(1, 3, 64, 64)).mean() == 1  # small ones do not ask
    net(large)
    assert capsys.readouterr().out.count("--tile 0") == tiled


def test_memory_that_is_left_is_that_of_the_narrowest_group(tmp_path):
    """A batch job's limit is not at the root; files that were read only seem to take memory."""
    job = tmp_path / "slurm" / "job_1"
    job.mkdir(parents=True)
    for folder, limit in ((job, "1000"), (job.parent, "max")):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text("700\n")
        (folder / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert any_size.left_in_groups(tmp_path, "/slurm/job_1") == [450]
    assert any_size.left_in_groups(tmp_path, "/slurm") == []
    assert any_size.left_in_groups(tmp_path, "/elsewhere") == []
    (tmp_path / "memory.max").write_text("800")
    (tmp_path / "memory.current").write_text("790")
    (tmp_path / "memory.stat").write_text("inactive_file 0")
    assert sorted(any_size.left_in_groups(tmp_path, "/slurm/job_1")) == [10, 450]


class Residual(ResnetGenerator):
    """Somebody's generator, from ours."""

    def forward(self, x):
        return x + super().forward(x)


def edited(place, layer):
    net = ResnetGenerator(3, 3, 4, get_norm_layer("instance"), n_blocks=2)
    net.model[place] = layer
    return net


@pytest.mark.parametrize("net, name", [
    (nn.Conv2d(3, 3, 1), "Conv2d"),
    (Residual(3, 3, 4, get_norm_layer("instance"), n_blocks=2), "Residual"),
    (edited(2, nn.GroupNorm(2, 4)), "GroupNorm"),
    (edited(4, nn.Conv2d(4, 8, 3, 2, 2, dilation=2)), "Conv2d"),
    (edited(4, nn.Conv2d(4, 8, 3, 2, 1, padding_mode="reflect")), "Conv2d"),
])  # fmt: skip
@torch.no_grad()
def test_other_and_edited_networks_are_not_tiled_and_that_is_said(net, name, capsys):
    image = noise(60, 44).float()
    whole = net(image)
    for tile in (3, None):
        take_any_size([net], tile, 128)
        assert torch.equal(net(image), whole)
        assert (f"nothing of {name}\n" in capsys.readouterr().out) == (tile == 3)


@pytest.mark.parametrize("netG", ["resnet_6blocks", "unet_128"])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_our_own_networks_have_no_foreign_parts(netG, norm):
    net = networks.define_G(3, 3, 4, netG, norm, use_dropout=True)
    assert tiling.foreign_parts(net) == ""
    cpu_layers.swap_in(net, torch.device("cpu"), "fp32", training=False)
    assert tiling.foreign_parts(net) == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bands_and_tiles_on_a_gpu(where):
    net, image = generator().cuda(), noise(67, 45).cuda()
    with torch.no_grad():
        assert (in_bands(net, image, 900) - net(image)).abs().max() < EXACT
        on_cpu = translate_in_tiles(unet(), noise(128, 200), 128, Work(1000))
        on_gpu = translate_in_tiles(unet().cuda(), noise(128, 200).cuda(), 128, Work(1000))
        assert (on_gpu.cpu() - on_cpu).abs().max() < 1e-7
