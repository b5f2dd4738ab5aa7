"""One step of the models, against formulas written out by hand."""

import copy
import random

import pytest
import torch
from conftest import TINY
from torch.nn.functional import softplus

from models import create_model
from models.networks import cal_gradient_penalty
from options.train_options import TrainOptions
from util import rng


def build(name, *more):
    """A tiny model in float64, without dropout and with a seed of its own."""
    rng.seed_everything(3)
    argv = ["--dataroot", "none", "--model", name, *TINY, "--norm", "instance", "--no_dropout"]
    opt = TrainOptions().parse([*argv, *more])
    model = create_model(opt)
    model.setup(opt)
    for value in vars(model).values():
        if isinstance(value, torch.nn.Module):
            value.double()
    return model


def batch(seed, count=2):
    """Two random images a side, different for every seed."""
    numbers = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, count, 3, 32, 32, generator=numbers, dtype=torch.float64) * 2 - 1
    return {"A": a, "B": b, "A_paths": ["a"] * count, "B_paths": ["b"] * count}


def pairs_of_pix2pix(model):
    """What pix2pix shows its discriminator: {discriminator: (real, fake)}."""
    real, fake = model.real_B, model.fake_B.detach()
    return {"D": tuple(torch.cat((model.real_A, image), 1) for image in (real, fake))}


def images_of_cycle_gan(model):
    """The same for CycleGAN: D_A judges images of B, D_B images of A."""
    return {
        "D_A": (model.real_B, model.fake_B.detach()),
        "D_B": (model.real_A, model.fake_A.detach()),
    }


SHOWN = {"pix2pix": pairs_of_pix2pix, "cycle_gan": images_of_cycle_gan}
DISCRIMINATORS = [("pix2pix", "D"), ("cycle_gan", "D_A"), ("cycle_gan", "D_B")]


# the loss of a discriminator


@pytest.mark.parametrize(("name", "discriminator"), DISCRIMINATORS)
def test_wgangp_discriminator_minimises_half_of_critic_loss_and_penalty(name, discriminator):
    """1/2 (E D(fake) - E D(real) + 7 E (|grad D| - 1)^2), arXiv 1704.00028, equation 3."""
    model = build(name, "--gan_mode", "wgangp", "--lambda_gp", "7", "--pool_size", "0")
    model.set_input(batch(1))
    model.forward()
    net = model.named_networks()[discriminator]
    real, fake = SHOWN[name](model)[discriminator]

    rng.seed_everything(5)  # the points between real and fake are random
    penalty, _ = cal_gradient_penalty(net, real, fake, "cpu", lambda_gp=7)
    expected = 0.5 * (net(fake).mean() - net(real).mean() + penalty)
    gradients = torch.autograd.grad(expected, list(net.parameters()), allow_unused=True)

    rng.seed_everything(5)
    getattr(model, f"backward_{discriminator}")()
    loss = getattr(model, f"loss_{discriminator}")
    torch.testing.assert_close(loss, expected)
    assert abs(penalty) > 0.1 * abs(expected)  # else it could be missing unseen
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        found = 0 * parameter if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, 0 * parameter if gradient is None else gradient)


def step(model, seed):
    """One step on random images; returns what the discriminators were, and could be, shown."""
    model.set_input(batch(seed, count=1))
    before = copy.deepcopy(dict(model.named_networks()))
    model.optimize_parameters()
    return before, SHOWN[model.opt.model](model)


@pytest.mark.parametrize(("draw", "sees_older"), [(0.9, True), (0.1, False)])
@pytest.mark.parametrize(("name", "discriminator"), DISCRIMINATORS)
def test_after_the_fill_a_discriminator_sees_the_image_of_the_pool_or_the_new_one(
    name, discriminator, draw, sees_older, monkeypatch
):
    monkeypatch.setattr(random, "uniform", lambda low, high: draw)
    monkeypatch.setattr(random, "randint", lambda low, high: 0)
    model = build(name, "--pool_size", "1", "--gan_mode", "vanilla", "--batch_size", "1")
    _, first = step(model, 1)
    before, second = step(model, 2)
    net = before[discriminator]
    real, fake = second[discriminator]
    seen, other = first[discriminator][1], fake
    if not sees_older:
        seen, other = other, seen

    def loss(fake):  # -log sigmoid(x) = softplus(-x), -log(1 - sigmoid(x)) = softplus(x)
        return 0.5 * (softplus(-net(real)).mean() + softplus(net(fake)).mean())

    found = getattr(model, f"loss_{discriminator}")
    torch.testing.assert_close(found, loss(seen))
    assert abs(found - loss(other)) > 1e-6  # the two images can be told apart


# the template


def test_template_steps_as_adam_does_by_hand():
    """Two steps, arXiv 1412.6980, algorithm 1: moments beta1 and 0.999, epsilon 1e-8."""
    model = build("template", "--lr", "0.01", "--beta1", "0.3", "--lambda_regression", "5")
    parameters = list(model.netG.parameters())
    weights = [p.detach().clone() for p in parameters]
    first = second = [torch.zeros_like(p) for p in parameters]
    for t in (1, 2):
        data = batch(t)
        loss = 5 * (model.netG(data["A"]) - data["B"]).abs().mean()
        gradients = torch.autograd.grad(loss, parameters)
        first = [0.3 * m + 0.7 * g for m, g in zip(first, gradients, strict=True)]
        second = [0.999 * v + 0.001 * g**2 for v, g in zip(second, gradients, strict=True)]
        for w, m, v in zip(weights, first, second, strict=True):
            w -= 0.01 * (m / (1 - 0.3**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        model.set_input(data)
        model.optimize_parameters()
        torch.testing.assert_close(torch.as_tensor(model.loss_G), loss.detach())
        for parameter, expected in zip(parameters, weights, strict=True):
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("direction", "source", "target"), [("AtoB", "A", "B"), ("BtoA", "B", "A")]
)
def test_template_goes_in_the_direction_it_is_told(direction, source, target):
    model = build("template", "--direction", direction)
    data = batch(1)
    model.set_input(data)
    model.optimize_parameters()
    assert torch.equal(model.data_A, data[source]) and torch.equal(model.data_B, data[target])
    assert model.get_image_paths() == data[f"{source}_paths"]
    error = (model.output - data[target]).abs().mean()
    torch.testing.assert_close(model.loss_G, error)


# what --lr_policy plateau follows


def test_plateau_without_loss_G_follows_all_losses_but_the_discriminators():
    model = build("template", "--lr_policy", "plateau")
    model.loss_names = ["Depth", "rec", "D", "D_A", "D_fake"]
    model.loss_D, model.loss_D_A, model.loss_D_fake = torch.tensor(100.0), 1000.0, 10_000.0
    for depth, rec in [(1.0, torch.tensor(2.0)), (4.0, torch.tensor(5.0))]:
        model.loss_Depth, model.loss_rec = depth, rec
        model.end_step()
    model.update_learning_rate()
    assert model.metric == (1 + 2 + 4 + 5) / 2
