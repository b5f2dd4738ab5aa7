"""The adversarial losses."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util import rng
from util.choices import choose
from util.precision import eagerly

# (logits, labels of the same shape, are they real?) -> scalar
GAN_MODES: dict[str, Callable[[Tensor, Tensor, bool], Tensor]] = {
    "lsgan": lambda logits, labels, real: F.mse_loss(logits, labels),
    "vanilla": lambda logits, labels, real: F.binary_cross_entropy_with_logits(logits, labels),
    "wgangp": lambda logits, labels, real: -logits.mean() if real else logits.mean(),
}


class GANLoss(nn.Module):
    """How far a discriminator's logits are from calling everything real, or fake.

    `gan_mode` is "vanilla" (the non-saturating loss of arXiv 1406.2661), "lsgan" (1611.04076) or
    "wgangp" (1704.00028; it has no labels and needs `cal_gradient_penalty` too), else ValueError.
    """

    def __init__(
        self, gan_mode: str, target_real_label: float = 1.0, target_fake_label: float = 0.0
    ):
        super().__init__()
        self.register_buffer("real_label", torch.tensor(target_real_label))
        self.register_buffer("fake_label", torch.tensor(target_fake_label))
        choose(GAN_MODES, gan_mode, "gan_mode")
        self.gan_mode = gan_mode

    def get_target_tensor(self, prediction: Tensor, target_is_real: bool) -> Tensor:
        """The label, in the shape, dtype and device of `prediction`."""
        label = self.get_buffer("real_label" if target_is_real else "fake_label")
        return label.to(prediction).expand_as(prediction)

    def forward(self, prediction: Tensor, target_is_real: bool) -> Tensor:
        """The loss, a scalar, of logits of any shape that ought to say "real", or "fake"."""
        logits = _at_least_float32(prediction)
        labels = self.get_target_tensor(logits, target_is_real)
        return GAN_MODES[self.gan_mode](logits, labels, target_is_real)


def cal_gradient_penalty(
    netD: nn.Module,
    real_data: Tensor,
    fake_data: Tensor,
    device: torch.device | str,
    type: str = "mixed",
    constant: float = 1.0,
    lambda_gp: float = 10.0,
) -> tuple[Tensor | float, Tensor | None]:
    """The penalty that keeps a critic's slope near `constant` (arXiv 1704.00028).

    lambda_gp * mean over the batch of (||grad_x D(x)||_2 - constant)^2, D(x) being the sum of one
    image's logits. x are the "real" or the "fake" images, both (N, C, H, W), or for the type
    "mixed" random points between two of them. Returns the penalty, a scalar to add to the loss of
    D, and the gradients (N, C * H * W); (0.0, None) when lambda_gp is 0 or less.
    """
    if lambda_gp <= 0:
        return 0.0, None
    ends = {"mixed": fake_data, "real": real_data, "fake": fake_data}
    points = choose(ends, type, "gradient penalty type")
    if type == "mixed":
        weight = rng.rand_of_batch(len(real_data)).to(device, real_data.dtype)
        weight = weight.reshape(-1, *[1] * (real_data.dim() - 1))
        points = fake_data + weight * (real_data - fake_data)
    points = points.detach().requires_grad_(True)
    (gradients,) = torch.autograd.grad(eagerly(netD, points).sum(), points, create_graph=True)
    gradients = _at_least_float32(gradients).reshape(len(points), -1)
    norms = torch.linalg.vector_norm(gradients, dim=1)
    return lambda_gp * ((norms - constant) ** 2).mean(), gradients


def _at_least_float32(x: Tensor) -> Tensor:
    """`x`, or its float32 copy when it has half precision: a mean there keeps three digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
