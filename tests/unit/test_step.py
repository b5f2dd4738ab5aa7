"""A step of training: batched calls, precision, compilation, and what saves memory."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, TWO_EPOCHS
from formulas import formula_image
from small_models import (
    TwoOptimizers,
    assert_close,
    batch_of,
    build,
    gradients,
    gradients_on_rank,
    own,
    parameters,
)
from torch import nn
from torch.torch_version import TorchVersion
from torchrun import ranks

import train
from models import networks, step
from models.networks.activation_checkpointing import checkpoint_activations
from models.template_model import TemplateModel
from options.test_options import TestOptions
from options.train_options import TrainOptions
from util import devices, precision, rng
from util.errors import UserError

# --- batched calls -----------------------------------------------------------------------------


def count_calls(model):
    calls = dict.fromkeys(model.model_names, 0)

    def count(name, *_):
        calls[name] += 1

    for name, net in model.named_networks().items():
        net.register_forward_hook(partial(count, name))
    return calls


def test_cycle_gan_calls_its_generators_three_times():
    model = build("cycle_gan")
    calls = count_calls(model)
    model.train_on(batch_of(2))
    assert calls == {"G_A": 2, "G_B": 1, "D_A": 2, "D_B": 2}


@pytest.mark.parametrize("more", [["--norm", "batch"], []], ids=["batch norm", "two sizes"])
def test_cycle_gan_keeps_calls_apart_that_would_mix_or_do_not_fit(more):
    model = build("cycle_gan", *more)
    calls = count_calls(model)
    model.train_on(batch_of(1, other=None if more else (36, 32)))
    assert calls["G_A"] == calls["G_B"] == 3
    assert calls["D_A"] == 3


def test_generators_with_batch_norm_of_their_own_are_called_one_batch_at_a_time():
    """--norm says nothing about a network that a subclass has built by itself."""
    model, opt = (m := build("cycle_gan")), m.opt
    torch.manual_seed(0)
    model.netG_A, model.netG_B = (
        networks.define_G(3, 3, 4, "resnet_6blocks", "batch") for _ in range(2)
    )
    model.set_input(batch_of(1))
    expected = copy.deepcopy(model.netG_A)(model.real_A)
    model.forward()
    assert opt.norm == "instance"
    torch.testing.assert_close(model.fake_B, expected)


def test_a_subclass_with_a_forward_of_its_own_still_gets_identity_losses():
    model, other = build("cycle_gan"), build("cycle_gan")

    def forward():
        other.fake_B, other.fake_A = other.netG_A(other.real_A), other.netG_B(other.real_B)
        other.rec_A, other.rec_B = other.netG_B(other.fake_B), other.netG_A(other.fake_A)

    other.forward = forward
    for m in (model, other):
        m.train_on(batch_of(1))
    assert other.get_current_losses() == pytest.approx(model.get_current_losses(), rel=1e-5)


# --- --checkpoint_activations ------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("netG, size", [("resnet_6blocks", 24), ("unet_128", 128)])
def test_recomputed_activations_are_the_activations(netG, size, norm):
    torch.manual_seed(0)
    plain = networks.define_G(3, 3, 4, netG, norm, use_dropout=True, init_gain=0.1).double()
    saving = copy.deepcopy(plain)
    checkpoint_activations(saving)
    x, kept = formula_image(2, 3, size, size), {}
    for name, net in {"plain": plain, "saving": saving}.items():
        torch.manual_seed(1)  # dropout
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel() * (t.dim() == 4 and len(t) == 2)) or t,
            lambda t: t,
        ):
            out = net(x)
        kept[name] = sum(sizes)
        out.square().mean().backward()
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-12)
    for key, value in plain.state_dict().items():  # running statistics once, not twice
        assert torch.equal(saving.state_dict()[key], value), key
    assert kept["saving"] < 0.65 * kept["plain"]


# --- --precision -------------------------------------------------------------------------------


def set_scale(model, scale):
    state = model.gradient_scaler.state_dict()
    model.gradient_scaler.load_state_dict(state | {"scale": scale} if state else state)


@pytest.mark.parametrize("name", ["pix2pix", "cycle_gan", "template"])
@pytest.mark.parametrize("kind, tolerance", [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision_gives_nearly_the_losses_and_float32_everything_else(name, kind, tolerance):
    exact, half = build(name), build(name, "--precision", kind)
    set_scale(half, 1.0)
    for model in (exact, half):
        model.train_on(batch_of(2))
    assert half.get_current_losses() == pytest.approx(exact.get_current_losses(), rel=tolerance)
    assert half.get_current_losses() != exact.get_current_losses()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in parameters(half).values())
    assert all(v.dtype == torch.float32 for v in half.get_current_visuals().values())
    cosine = F.cosine_similarity(*(torch.cat([g.flatten() for g in gradients(m).values()])
                                   for m in (exact, half)), dim=0)  # fmt: skip
    assert cosine > 0.9


def test_tf32_is_fp32_on_a_cpu():
    exact, other = build(), build("pix2pix", "--precision", "tf32")
    for model in (exact, other):
        model.train_on(batch_of(1))
    assert exact.get_current_losses() == other.get_current_losses()


def test_a_network_is_used_with_its_new_weights_within_one_step():
    """Autocast could keep the cast of a weight that an optimizer has changed since."""
    model, opt = own(TwoOptimizers, "--precision", "bf16")
    model.setup(opt)
    seen = []
    model.netA.register_forward_hook(lambda net, inputs, output: seen.append(output.detach()))
    model.train_on(batch_of(1))
    assert len(seen) == 2 and not torch.equal(*seen)


def test_the_scale_is_part_of_the_training_state_and_may_be_new():
    scaler = step.GradientScaler("cpu", init_scale=8.0)
    other = step.GradientScaler("cpu")
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == scaler.state_dict()
    off = step.GradientScaler("cpu", enabled=False)
    off.load_state_dict(scaler.state_dict())
    other.load_state_dict(off.state_dict())
    assert other.state_dict() == scaler.state_dict()


class PlainSteps(TemplateModel):
    """An optimizer that cannot skip a step by itself, and that has no scheduler."""

    def __init__(self, opt):
        super().__init__(opt)
        self.optimizer = torch.optim.SGD(self.netG.parameters(), lr=0.1, weight_decay=0.1)
        self.optimizers = []


@pytest.mark.parametrize(
    ("kind", "alike"), [(TemplateModel, 0.8), (PlainSteps, 0.99)], ids=["fused Adam", "SGD"]
)
def test_optimizers_skip_infinite_gradients_and_divide_by_the_scale(kind, alike):
    (exact, _), (model, _) = (
        own(kind, "--no_dropout", "--init_gain", "0.1", *more)
        for more in ([], ["--precision", "fp16"])
    )
    for m in (exact, model):
        m.setup(m.opt)
    before = {k: p.detach().clone() for k, p in parameters(model).items()}
    set_scale(model, 2.0**60)
    model.train_on(batch_of(1))
    assert all(torch.equal(p, before[k]) for k, p in parameters(model).items())
    assert model.gradient_scaler.get_scale() == 2.0**59
    set_scale(model, 1024.0)
    for m in (exact, model):
        m.train_on(batch_of(1))
    right, moved = (
        torch.cat([(p.detach() - before[k]).flatten() for k, p in parameters(m).items()])
        for m in (exact, model)
    )
    assert F.cosine_similarity(moved, right, dim=0) > alike
    assert float(moved.norm()) == pytest.approx(float(right.norm()), rel=0.05)


def test_frozen_leaves_each_weight_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    net[0].requires_grad_(False)
    with step.frozen(net, net[1]):
        assert not any(p.requires_grad for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True]


def test_networks_in_lists_and_dicts_are_moved_to_the_device():
    model, opt = own()
    model.device = torch.device("meta")
    model.helpers, model.by_name = [nn.Conv2d(3, 3, 1)], {"a": nn.Conv2d(3, 3, 1)}
    model.setup(opt)
    for net in (model.netA, model.helpers[0], model.by_name["a"]):
        assert all(p.is_meta for p in net.parameters())


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_a_continued_run_in_half_precision_is_the_uninterrupted_one(kind, aligned, here):
    argv = ["--dataroot", str(aligned), "--model", "pix2pix", *TINY, "--precision", kind]
    train.main([*argv, "--name", "whole", *TWO_EPOCHS])
    train.main([*argv, "--name", "two", "--n_epochs", "1", "--n_epochs_decay", "0"])
    train.main([*argv, "--name", "two", "--continue_train", *TWO_EPOCHS])
    for net in ("G", "D"):
        states = [torch.load(f"checkpoints/{n}/latest_net_{net}.pth") for n in ("whole", "two")]
        assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


# --- --compile ---------------------------------------------------------------------------------


@pytest.fixture
def quick_compiler(monkeypatch):
    """Everything but the code generation, which takes minutes."""
    compile = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda net, **kwargs: compile(net, backend="aot_eager", dynamic=False)
    )
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
@pytest.mark.parametrize("gan_mode", ["lsgan", "wgangp"])  # the latter differentiates D twice
@pytest.mark.parametrize("name", ["pix2pix", "cycle_gan"])
def test_a_compiled_model_takes_the_same_step(name, gan_mode, kind, quick_compiler):
    argv = ["--precision", kind, "--norm", "instance", "--gan_mode", gan_mode]
    plain, compiled = build(name, *argv), build(name, *argv, "--compile")
    assert [*compiled.named_networks()] == [*plain.named_networks()]
    for model in (plain, compiled):
        rng.seed_everything(1)
        model.train_on(batch_of(1))
    assert_close(gradients(compiled), gradients(plain), 1e-4 if kind == "fp32" else 0.1)
    assert parameters(compiled).keys() == parameters(plain).keys()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs >= 2, "nothing was compiled"


def gradients_of_compiled_rank(opt):
    """One step on this rank's share of a batch of four, in compiled networks."""
    compile = nn.Module.compile
    nn.Module.compile = lambda net, **kwargs: compile(net, backend="aot_eager", dynamic=False)
    found = gradients_on_rank(opt)
    nn.Module.compile = compile
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    assert not torch._dynamo.config.optimize_ddp  # it cuts graphs into pieces
    return found


def test_compiled_networks_on_two_ranks_with_synchronised_norms(tmp_path):
    argv = ["--norm", "syncbatch", "--batch_size"]
    model = build("pix2pix", *argv, "4")
    model.train_on(batch_of(4))
    opt = build("pix2pix", *argv, "2").opt
    opt.compile = True
    with ranks(2, tmp_path) as call:
        first, second = call(gradients_of_compiled_rank, opt)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert_close(first, gradients(model), 1e-4)


# --- memory ------------------------------------------------------------------------------------


def explained(*more, text="CUDA out of memory. Tried to allocate 2.00 GiB"):
    model = build("pix2pix", *more)

    def run_out():
        raise RuntimeError(text)  # as torch.OutOfMemoryError is

    model.optimize_parameters = run_out
    with pytest.raises(UserError) as error:
        model.train_on(batch_of(4, size=(48, 32)))
    return str(error.value)


def test_running_out_of_memory_names_size_batch_and_remedies_in_order():
    message = explained("--batch_size", "4")
    assert "48x32" in message and "batch of 4" in message
    remedies = ["--accumulate 2", "--checkpoint_activations", "--precision bf16", "--batch_size",
                "--crop_size"]  # fmt: skip
    assert sorted(remedies, key=message.index) == remedies


@pytest.mark.parametrize(
    "text", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"]
)
def test_libraries_that_run_out_of_memory_are_understood(text):
    assert "out of memory" in explained(text=text)


def test_what_is_in_use_is_no_remedy():
    message = explained(
        "--batch_size", "4", "--accumulate", "4", "--checkpoint_activations", "--precision", "bf16"
    )
    assert "in 4 micro-batches" in message and "crop_size" in message
    assert not any(flag in message for flag in ("--accumulate", "--checkpoint", "--precision"))


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        with step.explain_out_of_memory(build().opt, {}):
            raise RuntimeError("shapes do not fit")


def test_peak_memory_is_a_phrase_with_a_number():
    assert "GiB" in devices.peak_memory(torch.device("cpu"))


def test_precision_settings_reach_torch(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    precision.configure(torch.device("cpu"), "fp32", fixed_shapes=False)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.benchmark
    precision.configure(torch.device("cpu"), "tf32", fixed_shapes=True)
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.benchmark


@pytest.fixture
def gpu(monkeypatch):
    """Makes this machine look as if it had a GPU of a compute capability."""

    def pretend(*capability):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return pretend


@pytest.mark.parametrize("options", [TrainOptions, TestOptions])
def test_a_gpu_computes_as_torch_does_unless_told_otherwise(options, gpu):
    argv = ["--dataroot", "none", "--name", "n"]
    for capability, default in ((9, 0), "tf32"), ((8, 0), "tf32"), ((7, 5), "fp32"):
        gpu(*capability)
        assert options().parse(argv).precision == default
        assert options().parse([*argv, "--precision", "fp32"]).precision == "fp32"
    assert options().parse([*argv, "--gpu_ids", "-1"]).precision == "fp32"


def test_a_precision_that_the_device_lacks_is_refused(gpu, monkeypatch, capsys):
    gpu(7, 0)
    argv = ["--dataroot", "none", "--precision"]
    with pytest.raises(SystemExit):
        TrainOptions().parse([*argv, "bf16"])
    assert "--precision bf16: Tesla V100 has no bfloat16; use fp16" in capsys.readouterr().err
    assert TrainOptions().parse([*argv, "fp16"]).precision == "fp16"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(SystemExit):
        TrainOptions().parse([*argv, "fp16"])
    assert "--precision fp16" in capsys.readouterr().err
    assert TrainOptions().parse([*argv, "bf16"]).precision == "bf16"


def test_fused_adam_is_kept_from_layouts_that_it_misreads(monkeypatch):
    """Before torch 2.5, CUDA's took a 1x1 convolution in channels_last for a contiguous one."""
    weights = {"params": [SimpleNamespace(
        device=torch.device("cuda"), is_cuda=True, is_floating_point=lambda: True, shape=shape)
        for shape in [torch.Size((8,)), torch.Size((8, 4, 3, 3)), torch.Size((8, 4, 1, 1))]
    ]}  # fmt: skip
    plain = dict.fromkeys(("foreach", "capturable", "differentiable"))
    assert step._fusible(plain | weights)
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.4.1"))
    assert not step._fusible(plain | weights)
    assert step._fusible(plain | {"params": weights["params"][:2]})


def test_the_gpu_asked_for_is_the_current_one(monkeypatch):
    """--gpu_ids 1 in one process: events and the pinning thread do not name a device."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    precision.configure(torch.device("cuda", 1), "fp32", fixed_shapes=False)
    assert chosen == [torch.device("cuda", 1)]
