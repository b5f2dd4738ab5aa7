"""models/networks: keys, forwards, gradients, sizes and initial weights of the networks."""

import pickle
from functools import partial

import pytest
import torch
from formulas import assert_digest, fill_with_formula, formula_image, reference
from torch import nn

from models.networks import (
    DISCRIMINATORS,
    GENERATORS,
    NORM_ALIASES,
    NORMS,
    NLayerDiscriminator,
    PixelDiscriminator,
    ResnetBlock,
    ResnetGenerator,
    UnetGenerator,
    UnetSkipConnectionBlock,
    cpu_layers,
    define_D,
    define_G,
    get_norm_layer,
    init_weights,
    size_problem,
)
from models.networks.norms import normalizes_per_sample, same_weights
from util.errors import UserError

STATE_DICTS = reference("state_dicts")
FORWARDS = reference("forwards")


def shapes(net):
    return [[key, list(tensor.shape)] for key, tensor in net.state_dict().items()]


# --- state dicts -------------------------------------------------------------------------------


def build_entry(entry):
    """The network of an entry of state_dicts.json, such as "D n_layers 2 batch"."""
    words = entry.split()
    if words[0] == "G":
        dropout = words[3] == "dropout=True"
        return define_G(3, 2, 4, words[1], words[2], dropout)
    return define_D(3, 4, words[1], int(words[2]), words[3])


@pytest.mark.parametrize("entry", STATE_DICTS)
def test_state_dict_has_the_keys_order_and_shapes_of_the_original(entry):
    assert shapes(build_entry(entry)) == STATE_DICTS[entry]


# --- forwards ----------------------------------------------------------------------------------


def forward_id(case):
    return "-".join(str(case[key]) for key in ("net", "arch", "norm", "mode"))


@pytest.mark.parametrize("case", FORWARDS, ids=forward_id)
def test_forward_computes_the_numbers_of_the_original(case):
    if case["net"] == "G":
        net, channels = define_G(3, 3, case["ngf"], case["arch"], case["norm"]), 3
    else:
        net = define_D(6, case["ndf"], case["arch"], case["n_layers"], case["norm"])
        channels = 6
    fill_with_formula(net, case["phase"], 0.08)
    net.train(case["mode"] == "train")
    with torch.no_grad():
        out = net(formula_image(2, channels, *case["size"], case["phase"]).float())
    assert list(out.shape) == case.get("shape", [2, 3, *case["size"]])
    assert_digest(out, case["out"], rel=1e-5, abs=1e-5)


def test_forward_in_float64_agrees_with_float32():
    net = define_G(3, 3, 4, "resnet_6blocks", "instance")
    x = formula_image(1, 3, 24, 20)
    single = net(x.float())
    double = net.double()(x)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)


# --- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("name", ["resnet_6blocks", "unet_128"])
def test_every_parameter_of_a_generator_learns_from_one_image(name, norm):
    net = define_G(3, 3, 2, name, norm, use_dropout=True)
    size = max(24, GENERATORS[name].minimum)
    net(formula_image(1, 3, size, size).float()).square().mean().backward()
    for key, p in net.named_parameters():
        assert p.grad.isfinite().all(), key
        assert p.grad.any() or key.endswith("bias"), key  # a norm cancels the bias before it


@pytest.mark.parametrize(
    "net",
    [
        NLayerDiscriminator(3, 2, 2, NORMS["instance"]),
        NLayerDiscriminator(3, 2, 2, NORMS["batch"]),
        PixelDiscriminator(3, 2, NORMS["none"]),
    ],
    ids=["instance", "batch", "pixel"],
)
def test_gradient_of_a_discriminator_agrees_with_finite_differences(net):
    fill_with_formula(net, 0.3, 0.3)
    x = formula_image(2, 3, 13, 12).requires_grad_(True)
    assert torch.autograd.gradcheck(net.double(), (x,), fast_mode=True)


# --- what a patch sees -------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers, patch", [(1, 16), (2, 34), (3, 70), (4, 142), (5, 286)])
def test_patch_sizes_are_those_of_the_paper(n_layers, patch):
    """Isola et al., section 4.4, names 16, 70 and 286; (34 and 142 by their recursion)."""
    net = NLayerDiscriminator(1, 2, n_layers, NORMS["none"])
    for p in net.parameters():
        nn.init.constant_(p, 0.01)  # all positive: nothing cancels
    side = -(-2 * patch // 2**n_layers) * 2**n_layers
    x = torch.ones(1, 1, side, side, requires_grad=True)
    out = net(x)
    middle = out.shape[-1] // 2
    out[0, 0, middle, middle].backward()
    rows, columns = x.grad[0, 0].any(1), x.grad[0, 0].any(0)
    assert rows.sum() == columns.sum() == patch


def test_pixel_discriminator_sees_one_pixel():
    net = PixelDiscriminator(1, 2, NORMS["none"])
    x = torch.ones(1, 1, 6, 5, requires_grad=True)
    net(x)[0, 0, 3, 2].backward()
    assert x.grad.nonzero().tolist() == [[0, 0, 3, 2]]


def test_basic_is_the_three_layer_patchgan_whatever_n_layers():
    assert shapes(define_D(3, 4, "basic", 5)) == shapes(define_D(3, 4, "n_layers", 3))


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("height, width", [(5, 5), (6, 31), (7, 9), (18, 33)])
def test_resnet_keeps_any_size(height, width, norm):
    net = define_G(3, 2, 2, "resnet_6blocks", norm)
    assert net(torch.randn(1, 3, height, width)).shape == (1, 2, height, width)


@pytest.mark.parametrize("height, width", [(4, 32), (32, 4), (1, 1)])
def test_resnet_refuses_what_it_cannot_pad(height, width):
    net = define_G(3, 3, 2, "resnet_6blocks", "instance")
    with pytest.raises(UserError, match=f"{height}x{width}.* 5 or more"):
        net(torch.randn(1, 3, height, width))


def test_smaller_images_really_do_not_fit_the_resnet():
    """The minimum is torch's, not ours: one pixel less and the layers themselves refuse."""
    net = define_G(3, 3, 2, "resnet_6blocks", "none")
    with pytest.raises(RuntimeError, match="[Pp]adding size"):
        net.model(torch.randn(1, 3, 4, 32))


def test_resnet_crop_keeps_images_aligned():
    """All weights 0 but the centres: the generator is then tanh(x) wherever x is sampled."""
    net = ResnetGenerator(1, 1, 1, NORMS["none"], n_blocks=0)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.zeros_(layer.weight)
            centre = layer.kernel_size[0] // 2
            layer.weight.data[0, 0, centre, centre] = 1.0
    nn.init.zeros_(net.model[-2].bias)
    x = torch.rand(1, 1, 10, 7)
    expected = torch.zeros_like(x)
    expected[..., ::4, ::4] = x[..., ::4, ::4].tanh()
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("name", ["unet_128", "unet_256"])
def test_unet_names_size_multiple_and_remedies(name):
    net = define_G(3, 3, 2, name)
    multiple = int(name[-3:])
    assert GENERATORS[name].multiple == net.multiple == multiple
    for height, width in [(multiple, multiple + 2), (multiple // 2, multiple)]:
        with pytest.raises(UserError) as error:
            net(torch.randn(1, 3, height, width))
        for word in (f"{height}x{width}", str(multiple), "--crop_size", "--netG resnet_9blocks"):
            assert word in str(error.value)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_unet_takes_one_image_of_each_multiple_in_training(norm):
    """No norm ever sees a single value, which torch would refuse in training mode."""
    net = define_G(3, 2, 2, "unet_128", norm).train()
    for height, width in [(128, 128), (256, 128)]:
        assert net(torch.randn(1, 3, height, width)).shape == (1, 2, height, width)


def test_resnets_need_no_multiple():
    assert [GENERATORS[f"resnet_{n}blocks"].multiple for n in (6, 9)] == [1, 1]


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("name, n_layers", [("basic", 3), ("n_layers", 1), ("n_layers", 4)])
def test_smallest_image_of_a_discriminator_gives_one_logit(name, n_layers, norm):
    size = DISCRIMINATORS[name].minimum(n_layers)
    net = define_D(3, 2, name, n_layers, norm).train()
    assert net(torch.randn(1, 3, size, size)).shape == (1, 1, 1, 1)
    with pytest.raises(UserError, match=f"{size - 1}x{size}.* {size} or more"):
        net(torch.randn(1, 3, size - 1, size))


# --- norms -------------------------------------------------------------------------------------


def test_norm_layers_are_what_the_table_says():
    instance = get_norm_layer("instance")(4)
    assert type(instance) is nn.InstanceNorm2d
    assert not instance.affine and not instance.track_running_stats
    for name in ("batch", "syncbatch", "sync_batch"):
        assert type(get_norm_layer(name)(4)) is nn.BatchNorm2d
    assert type(get_norm_layer("none")(4)) is nn.Identity


def test_aliases_lead_to_rows_of_the_table():
    assert {alias: NORMS[name] for alias, name in NORM_ALIASES.items()} == {
        "sync_batch": NORMS["syncbatch"],
        "sync_instance": NORMS["instance"],
    }


def test_batch_and_syncbatch_hold_the_same_weights():
    assert same_weights("batch", "sync_batch") and same_weights("instance", "sync_instance")
    assert not same_weights("batch", "instance") and not same_weights("none", "instance")
    with pytest.raises(ValueError, match="'layer'"):
        same_weights("batch", "layer")


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean()


@pytest.mark.parametrize(
    "net, alone",
    [
        (define_G(3, 3, 2, "resnet_6blocks", "instance"), True),
        (define_D(3, 2, "basic", norm="none"), True),
        (define_G(3, 3, 2, "unet_128", "batch"), False),
        (define_D(3, 2, "basic", norm="syncbatch"), False),
        (nn.Sequential(nn.SyncBatchNorm(3)), False),
        (nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True)), False),
        (nn.Sequential(nn.GroupNorm(1, 3), nn.InstanceNorm2d(3, affine=True)), True),
        (nn.Sequential(nn.Conv2d(3, 3, 1), Centred()), False),
    ],
)
def test_whether_a_network_treats_each_sample_alone_is_read_off_its_modules(net, alone):
    assert normalizes_per_sample(net) is alone
    cpu_layers.swap_in(net, torch.device("cpu"), "fp32")
    assert normalizes_per_sample(net) is alone


def group_norm(channels):
    return nn.GroupNorm(2, channels)


@pytest.mark.parametrize(
    "norm_layer, bias",
    [
        (nn.InstanceNorm2d, True),
        (partial(nn.InstanceNorm2d, affine=True), True),
        (nn.BatchNorm2d, False),
        (partial(nn.BatchNorm2d, momentum=0.5), False),
        (group_norm, False),
    ],
    ids=["InstanceNorm2d", "affine", "BatchNorm2d", "momentum", "function"],
)
def test_only_an_instance_norm_of_the_users_gives_the_convolution_a_bias(norm_layer, bias):
    nets = {
        "model.4.bias": ResnetGenerator(3, 3, 2, norm_layer),
        "model.model.1.model.1.bias": UnetGenerator(3, 3, 5, 2, norm_layer),
        "model.2.bias": NLayerDiscriminator(3, 2, 3, norm_layer),
        "net.2.bias": PixelDiscriminator(3, 2, norm_layer),
    }
    for key, net in nets.items():
        assert (key in net.state_dict()) is bias


# --- blocks that people build with -------------------------------------------------------------


def test_constructors_take_the_originals_argument_names():
    ResnetGenerator(
        input_nc=3, output_nc=3, ngf=2, norm_layer=nn.BatchNorm2d, use_dropout=False, n_blocks=1,
        padding_type="reflect",
    )  # fmt: skip
    ResnetBlock(4, padding_type="zero", norm_layer=nn.BatchNorm2d, use_dropout=True, use_bias=False)
    UnetGenerator(3, 3, num_downs=5, ngf=2, norm_layer=nn.BatchNorm2d, use_dropout=True)
    UnetSkipConnectionBlock(
        4, 8, input_nc=None, submodule=None, outermost=False, innermost=True,
        norm_layer=nn.BatchNorm2d, use_dropout=False,
    )  # fmt: skip
    NLayerDiscriminator(3, ndf=2, n_layers=2, norm_layer=nn.BatchNorm2d)
    PixelDiscriminator(3, ndf=2, norm_layer=nn.BatchNorm2d)


@pytest.mark.parametrize("padding_type, index", [("reflect", 5), ("replicate", 5), ("zero", 3)])
def test_resnet_block_adds_to_its_input(padding_type, index):
    block = ResnetBlock(3, padding_type, nn.Identity, use_dropout=False, use_bias=False)
    nn.init.zeros_(block.conv_block[index].weight)
    x = torch.randn(2, 3, 6, 5)
    assert torch.equal(block(x), x)


def test_skip_connection_leaves_its_input_alone_and_passes_it_on_activated():
    block = UnetSkipConnectionBlock(2, 4, innermost=True, norm_layer=nn.BatchNorm2d)
    x = formula_image(1, 2, 8, 8, phase=3.0).float()
    before = x.clone()
    out = block(x)
    assert torch.equal(x, before)
    assert torch.equal(out[:, :2], torch.where(x > 0, x, 0.2 * x))


@pytest.mark.parametrize("name, count", [("unet_256", 3), ("unet_128", 2), ("resnet_9blocks", 9)])
def test_dropout_is_in_the_inner_blocks_and_only_when_asked(name, count):
    def dropouts(use_dropout):
        net = define_G(3, 3, 2, name, "instance", use_dropout)
        return [layer.p for layer in net.modules() if isinstance(layer, nn.Dropout)]

    assert dropouts(True) == [0.5] * count
    assert dropouts(False) == []


@pytest.mark.parametrize("net", [define_G(3, 3, 2, "unet_128"), define_D(3, 2, "basic")])
def test_networks_can_be_pickled(net):
    """Whole networks travel to other processes, and people keep them in their own files."""
    assert shapes(pickle.loads(pickle.dumps(net))) == shapes(net)


# --- plain networks, and their export ----------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("define, name", [
    *((define_G, name) for name in GENERATORS), *((define_D, name) for name in DISCRIMINATORS)
])  # fmt: skip
def test_networks_hold_layers_of_torch_only(define, name, norm):
    net = define_G(3, 3, 2, name, norm) if define is define_G else define_D(3, 2, name, norm=norm)
    homes = {type(layer).__module__ for layer in net.modules() if not list(layer.children())}
    assert homes and all(home.startswith("torch.nn.modules.") for home in homes)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("name, size", [("resnet_6blocks", (62, 64)), ("unet_128", (128, 128))])
def test_generators_go_to_torchscript_and_export(name, size, swapped):
    """Also after training with other layers, and for other batches than the example's."""
    net = define_G(3, 3, 4, name, "batch").eval()
    if swapped:
        cpu_layers.swap_in(net, torch.device("cpu"), "fp32")
        cpu_layers.swap_out(net)
    one, three = torch.rand(1, 3, *size), torch.rand(3, 3, *size)
    expected = net(three)
    torch.testing.assert_close(torch.jit.trace(net, one)(three), expected)
    torch.testing.assert_close(torch.jit.script(net)(three), expected)
    if not swapped:
        batch = torch.export.Dim("batch", min=1, max=8)
        shapes = ({0: batch},)
        exported = torch.export.export(net, (torch.rand(2, 3, *size),), dynamic_shapes=shapes)
        torch.testing.assert_close(exported.module()(three), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_discriminator_goes_to_torchscript():
    net, x = define_D(3, 2, "basic", norm="instance"), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(torch.jit.script(net)(x), net(x))


@pytest.mark.parametrize(
    "size, limits, problem",
    [
        ((256, 512), {"multiple": 256}, None),
        ((256, 300), {"multiple": 256}, "multiples of 256"),
        ((24, 23), {"minimum": 24}, "24 or more"),
        ((24, 25), {"minimum": 24}, None),
        ((0, 256), {"multiple": 256, "minimum": 256}, "256 or more"),
    ],
)
def test_one_function_says_which_sizes_fit(size, limits, problem):
    found = size_problem(*size, **limits)
    assert found is None if problem is None else problem in found


# --- initial weights ---------------------------------------------------------------------------


def many_layers():
    return nn.Sequential(
        nn.Conv2d(32, 64, 3),
        nn.ConvTranspose2d(64, 64, 3),
        nn.Linear(128, 128),
        nn.BatchNorm2d(4096),
        nn.SyncBatchNorm(4096),
        nn.InstanceNorm2d(8),
        nn.BatchNorm2d(8, affine=False),
        nn.Conv2d(8, 8, 1, bias=False),
    )


@pytest.mark.parametrize(
    "init_type, gain, std",
    [
        # conv: 32 * 9 inputs and 64 * 9 outputs; transposed: 64 * 9 both; linear: 128 both
        ("normal", 0.05, (0.05, 0.05, 0.05)),
        ("xavier", 0.5, (0.5 * (2 / 864) ** 0.5, 0.5 * (2 / 1152) ** 0.5, 0.5 / 128**0.5)),
        ("kaiming", 0.5, ((2 / 288) ** 0.5, (2 / 576) ** 0.5, (2 / 128) ** 0.5)),
    ],
)
def test_weights_have_the_spread_of_the_papers(init_type, gain, std):
    torch.manual_seed(0)
    net = many_layers()
    assert init_weights(net, init_type, gain) is None
    for layer, expected in zip(net[:3], std, strict=True):
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.03)
        assert abs(layer.weight.mean().item()) < 0.03 * expected
        # normal draws: 4.55 % lie beyond two sigma, of uniform ones with this spread none
        beyond = (layer.weight.abs() > 2 * expected).double().mean().item()
        assert beyond == pytest.approx(0.0455, abs=0.01)
        assert not layer.bias.any()


def test_orthogonal_weights_are_orthogonal_times_the_gain():
    net = many_layers()
    init_weights(net, "orthogonal", 0.5)
    for layer in net[:3]:
        rows = layer.weight.flatten(1).double()
        gram = rows @ rows.T
        torch.testing.assert_close(gram, 0.25 * torch.eye(len(rows)).double(), rtol=0, atol=1e-5)
        assert not layer.bias.any()


@pytest.mark.parametrize("init_type", ["normal", "kaiming"])
def test_batch_norm_weights_scatter_about_one(init_type):
    torch.manual_seed(0)
    net = many_layers()
    init_weights(net, init_type, 0.02)
    for layer in net[3:5]:
        assert layer.weight.mean().item() == pytest.approx(1, abs=0.002)
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not layer.bias.any()


def test_define_initialises_and_repeats_with_the_seed():
    def weights(seed):
        torch.manual_seed(seed)
        return define_D(3, 64, "basic", 3, "batch", "normal", 0.3).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.2.weight"], other["model.2.weight"])
    assert first["model.2.weight"].std().item() == pytest.approx(0.3, rel=0.02)


# --- signatures and mistakes -------------------------------------------------------------------


def test_plugins_call_by_position():
    g = define_G(3, 2, 4, "unet_128", "instance", True, "xavier", 0.02, [0])
    assert shapes(g) == STATE_DICTS["G unet_128 instance dropout=True"]
    d = define_D(3, 4, "n_layers", 2, "batch", "normal", 0.02, [0, 1])
    assert shapes(d) == STATE_DICTS["D n_layers 2 batch"]
    assert {p.device.type for net in (g, d) for p in net.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: define_G(3, 3, 2, "resnet9"), ["netG", "'resnet9'", "resnet_9blocks"]),
        (lambda: define_D(3, 2, "patch"), ["netD", "'patch'", "n_layers"]),
        (lambda: define_G(3, 3, 2, "unet_128", "layer"), ["norm", "'layer'", "syncbatch"]),
        (lambda: define_D(3, 2, "basic", init_type="he"), ["init_type", "'he'", "kaiming"]),
        (lambda: define_D(3, 2, "n_layers", 0), ["n_layers", "0"]),
        (lambda: ResnetGenerator(3, 3, padding_type="wrap"), ["padding_type", "'wrap'", "zero"]),
    ],
    ids=["netG", "netD", "norm", "init_type", "n_layers", "padding_type"],
)
def test_unknown_names_are_refused_with_the_choices(call, words):
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)
