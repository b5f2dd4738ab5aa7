"""--accumulate: a batch computed in parts, by our models and by people's own."""

import pytest
import torch
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
from torchrun import ranks

from models.cycle_gan_model import CycleGANModel
from models.template_model import TemplateModel
from util import rng
from util.errors import UserError

POOLS = {"no pool": "0", "pool": "3"}


@pytest.mark.parametrize("count", [4, 3, 2], ids=["full batch", "last of the epoch", "one part"])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", ["pix2pix", "cycle_gan", "template"])
def test_micro_batches_are_the_batch(name, pool, count):
    """Two steps: pix2pix' G meets the D of its step, pools are asked in the same order."""
    argv = ["--norm", "instance", "--batch_size", "4", "--pool_size", POOLS[pool]]
    whole, parts = (build(name, *argv, *more) for more in ([], ["--accumulate", "2"]))
    for seed in range(2):
        for model in (whole, parts):
            rng.seed_everything(seed)
            for net in model.named_networks().values():
                net.double()
            batch = batch_of(count, seed=seed)
            model.train_on(batch | {side: batch[side].double() for side in "AB"})
    assert_close(gradients(parts), gradients(whole), 1e-6)
    assert parts.get_current_losses() == pytest.approx(whole.get_current_losses(), rel=1e-6)
    first = 2 if count > 2 else 0  # the images of the last micro-batch are shown, with its paths
    for image, expected in whole.get_current_visuals().items():
        torch.testing.assert_close(parts.get_current_visuals()[image], expected[first:])
    paths = whole.get_image_paths()
    assert parts.get_image_paths() == [*paths[first:], *paths[:first]]


def test_batch_norm_counts_the_images_of_all_micro_batches_once():
    model = build("pix2pix", "--norm", "batch", "--batch_size", "4", "--accumulate", "2")
    model.train_on(batch_of(4))
    norms = [m for m in model.netG.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {2}


class StepsTooEarly(TemplateModel):
    """It takes a step for each micro-batch."""

    def optimize_parameters(self):
        for _ in self.micro_batches():
            self.optimizer.zero_grad()
            self.forward()
            self.loss_G = self.output.abs().mean()
            self.backward(self.loss_G)
            self.optimizer.step()


class NoLoop(TemplateModel):
    """It takes the first micro-batch for the batch."""

    def optimize_parameters(self):
        self.optimizer.zero_grad()
        self.forward()
        self.loss_G = self.output.abs().mean()
        self.backward(self.loss_G)
        self.optimizer.step()


class PlainBackward(TemplateModel):
    """The way it is written without this program."""

    def optimize_parameters(self):
        self.forward()
        self.optimizer.zero_grad()
        self.loss_G = self.criterion(self.output, self.data_B) * self.opt.lambda_regression
        self.loss_G.backward()
        self.optimizer.step()


class PlainDiscriminator(CycleGANModel):
    """One of its two kinds of losses goes its own way."""

    def backward_D_basic(self, netD, real, fake):
        loss = netD(real).square().mean() - netD(fake.detach()).mean()
        loss.backward()
        return loss


@pytest.mark.parametrize("more", [[], ["--precision", "tf32"], ["--precision", "bf16"]])
def test_plain_calls_of_backward_train_as_self_backward_does(more):
    models = [own(kind, "--no_dropout", *more)[0] for kind in (PlainBackward, TemplateModel)]
    for model in models:
        model.setup(model.opt)
        model.train_on(batch_of(1))
    plain, ours = map(parameters, models)
    assert all(torch.equal(plain[k], ours[k]) for k in ours)


FP16, ACCUMULATE = ["--precision", "fp16"], ["--batch_size", "2", "--accumulate", "2"]


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        (PlainBackward, FP16, ["--precision fp16", "self.backward(loss)"]),
        (PlainBackward, ACCUMULATE, ["--accumulate 2", "self.backward(loss)", "micro_batches()"]),
        (TwoOptimizers, ACCUMULATE, ["--accumulate 2", "self.backward(loss)", "micro_batches()"]),
        (NoLoop, ACCUMULATE, ["--accumulate 2", "micro_batches()"]),
        (StepsTooEarly, ACCUMULATE, ["--accumulate 2", "optimizer.step() after"]),
    ],
)
def test_a_model_that_cannot_is_told_what_to_write_before_its_weights_change(kind, more, words):
    model, opt = own(kind, *more)
    model.setup(opt)
    before = {k: p.detach().clone() for k, p in parameters(model).items()}
    with pytest.raises(UserError) as error:
        model.train_on(batch_of(2))
    assert all(word in str(error.value) for word in [kind.__name__, *words])
    assert all(torch.equal(p, before[k]) for k, p in parameters(model).items())


def test_one_plain_backward_among_others_is_found_too():
    model, opt = own(PlainDiscriminator, *FP16, "--no_dropout", name="cycle_gan")
    model.setup(opt)
    with pytest.raises(UserError, match="PlainDiscriminator.*self.backward"):
        model.train_on(batch_of(1))


class WithKernel(TemplateModel):
    """It has tensors of four dimensions that are no images."""

    def __init__(self, opt):
        super().__init__(opt)
        self.kernel = torch.full((1, 1, 3, 3), 1 / 9)
        self.shade = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.optimizer.add_param_group({"params": [self.shade]})

    def forward(self):
        super().forward()
        self.output = self.output + self.shade


def test_what_is_neither_image_nor_loss_stays_as_it_is_in_micro_batches():
    model, opt = own(WithKernel, *ACCUMULATE)
    model.setup(opt)
    kernel, shade = model.kernel, model.shade
    for _ in range(2):
        model.train_on(batch_of(2))
    assert model.kernel is kernel and kernel.shape == (1, 1, 3, 3)
    assert model.shade is shade and shade.abs().max() > 0  # it trains


def test_colours_with_micro_batches_are_those_of_the_last():
    model = build("colorization", *ACCUMULATE)
    batch = batch_of(2)
    model.train_on(batch | {"A": batch["A"][:, :1], "B": batch["B"][:, :2]})
    model.compute_visuals()
    shapes = {k: tuple(v.shape) for k, v in model.get_current_visuals().items()}
    assert shapes == {
        "real_A": (1, 1, 32, 32), "real_B_rgb": (1, 3, 32, 32), "fake_B_rgb": (1, 3, 32, 32),
    }  # fmt: skip


def test_accumulate_must_divide_the_batch(capsys):
    with pytest.raises(SystemExit):
        build("pix2pix", "--batch_size", "4", "--accumulate", "3")
    assert "--accumulate 3 does not divide the batch of 4" in capsys.readouterr().err


def test_micro_batches_on_two_ranks_are_the_batch_of_one_process(tmp_path):
    model = build("pix2pix", "--norm", "instance", "--batch_size", "4")
    opt = build("pix2pix", "--norm", "instance", "--batch_size", "2", "--accumulate", "2").opt
    with ranks(2, tmp_path) as call:
        first, second = call(gradients_on_rank, opt)
    model.train_on(batch_of(4))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert_close(first, gradients(model), 1e-5)
