"""models/networks/losses.py: adversarial losses and the gradient penalty."""

import math
import pickle

import pytest
import torch
from formulas import fill_with_formula, formula_image
from torch import nn

from models.networks import NORMS, GANLoss, NLayerDiscriminator, cal_gradient_penalty

PATCH = (2, 1, 4, 4)


# --- GANLoss -----------------------------------------------------------------------------------


def test_lsgan_loss_is_zero_on_its_target():
    assert GANLoss("lsgan")(torch.ones(PATCH), True) == 0
    assert GANLoss("lsgan")(torch.zeros(PATCH), False) == 0


@pytest.mark.parametrize(
    "gan_mode, logit, real, expected",
    [
        ("lsgan", 3.0, True, 4.0),
        ("lsgan", 3.0, False, 9.0),
        ("vanilla", 0.0, True, math.log(2)),
        ("vanilla", 0.0, False, math.log(2)),
        ("vanilla", 2.0, True, math.log(1 + math.exp(-2))),  # -log sigmoid(2)
        ("vanilla", 2.0, False, math.log(1 + math.exp(2))),  # -log (1 - sigmoid(2))
        ("vanilla", -200.0, True, 200.0),
        ("wgangp", 3.0, True, -3.0),
        ("wgangp", 3.0, False, 3.0),
    ],
)
def test_loss_of_one_logit(gan_mode, logit, real, expected):
    loss = GANLoss(gan_mode)(torch.full(PATCH, logit, dtype=torch.float64), real)
    assert loss.shape == () and loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gan_mode", ["lsgan", "vanilla", "wgangp"])
@pytest.mark.parametrize("real", [True, False])
def test_loss_is_the_mean_over_patches(gan_mode, real):
    criterion, logits = GANLoss(gan_mode).double(), formula_image(2, 1, 3, 5)
    with_batch_size_1 = [criterion(logit, real) for logit in logits.flatten()]
    torch.testing.assert_close(criterion(logits, real), torch.stack(with_batch_size_1).mean())


def test_labels_can_be_smoothed_and_move_with_the_module():
    criterion = GANLoss("lsgan", target_real_label=0.9, target_fake_label=0.1)
    assert criterion(torch.full(PATCH, 0.9), True) == 0
    assert criterion(torch.full(PATCH, 0.1), False) == 0
    assert set(criterion.state_dict()) == {"real_label", "fake_label"}


@pytest.mark.parametrize("gan_mode", ["lsgan", "vanilla", "wgangp"])
def test_half_precision_logits_are_averaged_in_float32(gan_mode):
    logits = formula_image(2, 1, 30, 30).bfloat16()
    criterion = GANLoss(gan_mode)
    assert criterion(logits, True).dtype == torch.float32
    torch.testing.assert_close(criterion(logits, True), criterion(logits.float(), True))


def test_gan_loss_can_be_pickled():
    assert pickle.loads(pickle.dumps(GANLoss("lsgan")))(torch.ones(PATCH), True) == 0


def test_unknown_gan_mode_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'hinge'.*lsgan, vanilla, wgangp"):
        GANLoss("hinge")


# --- gradient penalty --------------------------------------------------------------------------


class Critic(nn.Module):
    """D(x) = <weight, x>, or <weight, x^2> / 2; remembers what it was shown."""

    def __init__(self, weight, square=False):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.square = square

    def forward(self, x):
        self.seen = x.detach()
        x = x**2 / 2 if self.square else x
        return (x * self.weight).flatten(1).sum(1)


def images(dtype=torch.float64):
    return formula_image(3, 2, 4, 5).to(dtype), formula_image(3, 2, 4, 5, phase=2.0).to(dtype)


@pytest.mark.parametrize("kind", ["mixed", "real", "fake"])
@pytest.mark.parametrize("constant, lambda_gp", [(1.0, 10.0), (0.5, 3.0), (0.0, 1.0)])
def test_penalty_of_a_linear_critic(kind, constant, lambda_gp):
    weight = formula_image(1, 2, 4, 5, phase=1.0)
    penalty, gradients = cal_gradient_penalty(
        Critic(weight), *images(), "cpu", kind, constant, lambda_gp
    )
    expected = lambda_gp * (weight.norm().item() - constant) ** 2
    assert penalty.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradients, weight.flatten().expand(3, -1))


def test_penalty_of_a_linear_critic_is_differentiated():
    """d/dw lambda (|w| - 1)^2 = 2 lambda (|w| - 1) w / |w|."""
    critic = Critic(formula_image(1, 2, 4, 5, phase=1.0))
    cal_gradient_penalty(critic, *images(), "cpu")[0].backward()
    w = critic.weight.detach()
    torch.testing.assert_close(critic.weight.grad, 20 * (w.norm() - 1) * w / w.norm())


@pytest.mark.parametrize("kind, place", [("real", 0), ("fake", 1)])
def test_penalty_of_a_square_critic_is_taken_at_the_images(kind, place):
    """D(x) = |x|^2 / 2 has slope |x|: each sample by itself, then the mean."""
    data = images()
    penalty, _ = cal_gradient_penalty(
        Critic(torch.ones(1).double(), square=True), *data, "cpu", kind, 1.0, 10.0
    )
    slopes = data[place].flatten(1).norm(dim=1)
    torch.testing.assert_close(penalty, 10 * ((slopes - 1) ** 2).mean())


def test_mixed_points_are_one_fraction_per_sample_on_the_line_between():
    torch.manual_seed(0)
    critic = Critic(torch.ones(1).double())
    real, fake = torch.ones(50, 2, 3, 3).double(), torch.zeros(50, 2, 3, 3).double()
    cal_gradient_penalty(critic, real, fake, "cpu")
    fractions = critic.seen.flatten(1)
    assert torch.equal(fractions, fractions[:, :1].expand_as(fractions))
    assert 0 <= fractions.min() < 0.2 and 0.8 < fractions.max() <= 1
    assert len(fractions[:, 0].unique()) == 50


def test_penalty_has_the_second_derivatives_of_finite_differences():
    net = NLayerDiscriminator(2, 2, 1, NORMS["instance"])
    fill_with_formula(net, 0.3, 0.4)
    net.double()
    real, fake = formula_image(2, 2, 8, 9), formula_image(2, 2, 8, 9, phase=2.0)

    def penalty(weight):
        def run(x):
            return torch.func.functional_call(net, {"model.2.weight": weight}, (x,))

        return cal_gradient_penalty(run, real, fake, "cpu", "real")[0]

    weight = net.model[2].weight.detach().clone().requires_grad_(True)
    assert torch.autograd.gradcheck(penalty, (weight,))


def test_flat_critic_has_the_full_penalty_and_finite_gradients():
    critic = Critic(torch.zeros(1).double())
    penalty, _ = cal_gradient_penalty(critic, *images(), "cpu")
    penalty.backward()
    assert penalty == 10 and critic.weight.grad.isfinite().all()


@pytest.mark.parametrize("lambda_gp", [0.0, -1.0])
def test_no_penalty_without_weight(lambda_gp):
    assert cal_gradient_penalty(None, *images(), "cpu", lambda_gp=lambda_gp) == (0.0, None)


@pytest.mark.parametrize("dtype, rel", [(torch.bfloat16, 1e-2), (torch.float32, 1e-5)])
def test_penalty_in_other_precisions_and_memory_formats(dtype, rel):
    """A 1x1 convolution has the slope w at each of the 4 * 5 pixels."""
    conv = nn.Conv2d(2, 1, 1).to(dtype, memory_format=torch.channels_last)
    nn.init.constant_(conv.weight, 0.5)
    data = (x.contiguous(memory_format=torch.channels_last) for x in images(dtype))
    penalty, gradients = cal_gradient_penalty(conv, *data, "cpu")
    assert gradients.shape == (3, 40)
    assert penalty.item() == pytest.approx(10 * (0.5 * 40**0.5 - 1) ** 2, rel=rel)


def test_fake_of_lower_precision_mixes_with_real():
    real, fake = images(torch.float32)
    penalty, _ = cal_gradient_penalty(Critic(torch.ones(1)), real, fake.bfloat16(), "cpu")
    assert penalty.item() == pytest.approx(10 * (40**0.5 - 1) ** 2, rel=1e-5)


def test_penalty_leaves_the_images_and_the_generator_alone():
    real, fake = images()
    made = fake.requires_grad_(True) * 1
    cal_gradient_penalty(Critic(torch.ones(1).double(), square=True), real, made, "cpu")[
        0
    ].backward()
    assert fake.grad is None and not real.requires_grad


def test_unknown_penalty_type_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'both'.*mixed, real, fake"):
        cal_gradient_penalty(nn.Identity(), *images(), "cpu", "both")
