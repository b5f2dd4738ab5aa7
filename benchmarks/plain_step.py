"""The textbook's step of pix2pix and CycleGAN: what ours is measured and checked against.

Contiguous, torch's own layers, one call of a network for each of its uses, default Adam.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks import cpu_layers


def plain_networks(model: nn.Module) -> dict[str, nn.Module]:
    """Copies of the networks of a model of ours, of torch's own layers, contiguous."""
    nets = {name: copy.deepcopy(net) for name, net in model.named_networks().items()}
    for net in nets.values():
        cpu_layers.swap_out(net)
        net.to(memory_format=torch.contiguous_format)
    return nets


@contextmanager
def without_kinks() -> Iterator[None]:
    """Within this block ReLU, leaky ReLU and L1 are smooth functions near them, in every network.

    A rounding may put an activation on the other side of a kink, in one step and not in the other,
    and moves its gradient by 1e-4. Without kinks all that differs is rounding.
    """

    def leaky_relu(x: Tensor, slope: float = 0.01, inplace: bool = False) -> Tensor:
        return slope * x + (1 - slope) * F.softplus(x, 2.0)

    def l1_loss(a: Tensor, b: Tensor, reduction: str = "mean") -> Tensor:
        return ((a - b).square() + 0.01).sqrt().mean()

    def relu(x: Tensor, inplace: bool = False) -> Tensor:
        return F.softplus(x, 2.0)

    with mock.patch.multiple(F, relu=relu, leaky_relu=leaky_relu, l1_loss=l1_loss):
        yield


class PlainStep:
    """One step of training on a pair of batches."""

    def __init__(self, nets: dict[str, nn.Module], gan_mode: str, lr: float = 2e-4):
        """Keep the networks by name; two optimizers, as in the papers."""
        losses = {"lsgan": F.mse_loss, "vanilla": F.binary_cross_entropy_with_logits}
        self.nets, self.loss, groups = nets, losses[gan_mode], {"G": [], "D": []}
        for name, net in nets.items():
            groups[name[0]] += net.parameters()
        self.G, self.D = (torch.optim.Adam(groups[k], lr, betas=(0.5, 0.999)) for k in "GD")

    def gan(self, logits: Tensor, real: bool) -> Tensor:
        """The adversarial loss."""
        return self.loss(logits, torch.full_like(logits, float(real)))

    def learn(self, learning: bool) -> None:
        """Whether the discriminators get gradients."""
        for name, net in self.nets.items():
            if name.startswith("D"):
                net.requires_grad_(learning)


class PlainPix2Pix(PlainStep):
    """D, then G."""

    lambda_L1 = 100

    def step(self, real_A: Tensor, real_B: Tensor) -> None:
        """(N, C, H, W) each."""
        G, D = self.nets["G"], self.nets["D"]
        fake_B = G(real_A)
        self.D.zero_grad()
        of_fake = D(torch.cat((real_A, fake_B.detach()), 1))
        of_real = D(torch.cat((real_A, real_B), 1))
        ((self.gan(of_fake, False) + self.gan(of_real, True)) * 0.5).backward()
        self.D.step()
        self.learn(False)
        self.G.zero_grad()
        loss = self.gan(D(torch.cat((real_A, fake_B), 1)), True)
        (loss + F.l1_loss(fake_B, real_B) * self.lambda_L1).backward()
        self.G.step()
        self.learn(True)


class PlainCycleGAN(PlainStep):
    """Both generators, in six calls; then both discriminators. No image pool."""

    weight, identity = 10, 0.5

    def step(self, real_A: Tensor, real_B: Tensor) -> None:
        """(N, C, H, W) each."""
        G_A, G_B, D_A, D_B = (self.nets[name] for name in ("G_A", "G_B", "D_A", "D_B"))
        fake_B = G_A(real_A)
        rec_A = G_B(fake_B)
        fake_A = G_B(real_B)
        rec_B = G_A(fake_A)
        self.learn(False)
        self.G.zero_grad()
        idt = F.l1_loss(G_A(real_B), real_B) + F.l1_loss(G_B(real_A), real_A)
        cycle = F.l1_loss(rec_A, real_A) + F.l1_loss(rec_B, real_B)
        fooled = self.gan(D_A(fake_B), True) + self.gan(D_B(fake_A), True)
        (fooled + self.weight * (cycle + self.identity * idt)).backward()
        self.G.step()
        self.learn(True)
        self.D.zero_grad()
        for D, real, fake in ((D_A, real_B, fake_B), (D_B, real_A, fake_A)):
            of_real, of_fake = D(real), D(fake.detach())
            ((self.gan(of_real, True) + self.gan(of_fake, False)) * 0.5).backward()
        self.D.step()


PLAIN = {"pix2pix": PlainPix2Pix, "cycle_gan": PlainCycleGAN}
