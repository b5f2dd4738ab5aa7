"""CycleGAN: unpaired image-to-image translation (Zhu et al., ICCV 2017, arXiv 1703.10593).

Names of the code and of the paper: G_A is G (A to B), G_B is F, D_A is D_Y (tells real B from
G_A(A)), D_B is D_X. The generators minimise

    GAN(D_A(G_A(A))) + GAN(D_B(G_B(B)))
    + lambda_A |G_B(G_A(A)) - A| + lambda_B |G_A(G_B(B)) - B|            (cycle, section 3.2)
    + lambda_identity (lambda_B |G_A(B) - B| + lambda_A |G_B(A) - A|)    (identity, section 5.2)
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models import networks
from models.base_model import BaseModel
from models.step import call_batched, check_discriminator, frozen
from util.image_pool import ImagePool


class CycleGANModel(BaseModel):
    """Two generators, each undoing the other, against two PatchGAN discriminators."""

    needs = ("A", "B")
    records_step = True

    @staticmethod
    def modify_commandline_options(parser: ArgumentParser, is_train: bool) -> ArgumentParser:
        """No dropout, as in the paper; the weights of the losses."""
        parser.set_defaults(no_dropout=True)
        if is_train:
            help = "identity loss, as a share of the cycle's weight; 0 for none"
            add = parser.add_argument
            add("--lambda_A", type=float, default=10.0, least=0, help="weight of A to B to A")
            add("--lambda_B", type=float, default=10.0, least=0, help="weight of B to A to B")
            add("--lambda_identity", type=float, default=0.5, least=0, help=help)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> Iterator[str]:
        """The identity loss compares an output with an input, so their channels must agree."""
        yield from check_discriminator(opt)
        if opt.isTrain and opt.lambda_identity > 0 and opt.input_nc != opt.output_nc:
            yield (
                f"--lambda_identity {opt.lambda_identity} cannot compare --input_nc {opt.input_nc} "
                f"with --output_nc {opt.output_nc}; use --lambda_identity 0 or equal numbers"
            )

    def __init__(self, opt: Namespace):
        super().__init__(opt)
        self.visual_names = ["real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B"]
        self.model_names = ["G_A", "G_B", "D_A", "D_B"] if self.isTrain else ["G_A", "G_B"]
        self.netG_A = networks.build_G(opt, opt.input_nc, opt.output_nc)
        self.netG_B = networks.build_G(opt, opt.output_nc, opt.input_nc)
        if self.isTrain:
            self._build_training(opt)

    def _build_training(self, opt: Namespace) -> None:
        self._identities: list[Tensor] = []  # idt_A and idt_B, made by forward on the way
        self.loss_names = ["D_A", "G_A", "cycle_A", "idt_A", "D_B", "G_B", "cycle_B", "idt_B"]
        if opt.lambda_identity > 0:
            self.visual_names.insert(3, "idt_B")  # after rec_A
            self.visual_names.append("idt_A")
        self.netD_A = networks.build_D(opt, opt.output_nc)
        self.netD_B = networks.build_D(opt, opt.input_nc)
        self.fake_A_pool = ImagePool(opt.pool_size)
        self.fake_B_pool = ImagePool(opt.pool_size)
        self.criterionGAN = networks.GANLoss(opt.gan_mode).to(self.device)
        self.criterionCycle = nn.L1Loss()
        self.criterionIdt = nn.L1Loss()
        self.optimizer_G = self.add_adam(self.netG_A, self.netG_B)
        self.optimizer_D = self.add_adam(self.netD_A, self.netD_B)

    def set_input(self, input: Mapping[str, Any]) -> None:
        """Take an image of each set; --direction BtoA swaps the sets."""
        self.real_A, self.real_B = self.take_pair(input)

    def forward(self) -> None:
        """Both translations, both ways back and, in training, the identities: in three calls."""
        identity = self.isTrain and torch.is_grad_enabled() and self.opt.lambda_identity > 0
        of_A, of_B = ([self.real_A], [self.real_B]) if identity else ([], [])
        self.fake_B, *idt_A = call_batched(self.netG_A, self.real_A, *of_B)
        self.rec_A, self.fake_A, *idt_B = call_batched(self.netG_B, self.fake_B, self.real_B, *of_A)
        self.rec_B = self.netG_A(self.fake_A)
        self._identities = [*idt_A, *idt_B]

    def backward_D_basic(self, netD: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Half of D's loss on real and generated images, which slows D down (section 4)."""
        fake = fake.detach()
        of_real, of_fake = call_batched(netD, real, fake)
        penalty = networks.gradient_penalty(self.opt, netD, real, fake)
        loss = self.criterionGAN(of_real, True) + self.criterionGAN(of_fake, False) + penalty
        loss_D = loss * 0.5
        self.backward(loss_D)
        return loss_D

    def backward_D_A(self) -> None:
        """D_A tells real B from generated B."""
        fake_B = self.fake_B_pool.query(self.fake_B)
        self.loss_D_A = self.backward_D_basic(self.netD_A, self.real_B, fake_B)

    def backward_D_B(self) -> None:
        """D_B tells real A from generated A."""
        fake_A = self.fake_A_pool.query(self.fake_A)
        self.loss_D_B = self.backward_D_basic(self.netD_B, self.real_A, fake_A)

    def backward_G(self) -> None:
        """Fool both discriminators, come back to the start, leave one's own images alone."""
        opt = self.opt
        self.loss_idt_A, self.loss_idt_B = self._identity_losses()
        self.loss_G_A = self.criterionGAN(self.netD_A(self.fake_B), True)
        self.loss_G_B = self.criterionGAN(self.netD_B(self.fake_A), True)
        self.loss_cycle_A = self.criterionCycle(self.rec_A, self.real_A) * opt.lambda_A
        self.loss_cycle_B = self.criterionCycle(self.rec_B, self.real_B) * opt.lambda_B
        self.loss_G = self.loss_G_A + self.loss_G_B + self.loss_cycle_A + self.loss_cycle_B
        self.loss_G = self.loss_G + self.loss_idt_A + self.loss_idt_B
        self.backward(self.loss_G)

    def _identity_losses(self) -> tuple[Tensor | float, Tensor | float]:
        opt = self.opt
        if opt.lambda_identity <= 0:
            return 0.0, 0.0
        batched, self._identities = self._identities, []  # none of a subclass's own forward
        self.idt_A, self.idt_B = batched or [self.netG_A(self.real_B), self.netG_B(self.real_A)]
        idt_A = self.criterionIdt(self.idt_A, self.real_B) * opt.lambda_B * opt.lambda_identity
        idt_B = self.criterionIdt(self.idt_B, self.real_A) * opt.lambda_A * opt.lambda_identity
        return idt_A, idt_B

    def optimize_parameters(self) -> None:
        """One step of both generators, then one of both discriminators."""
        fakes = []
        with frozen(self.netD_A, self.netD_B):
            self.optimizer_G.zero_grad()
            for _ in self.micro_batches():
                self.forward()
                self.backward_G()
                fakes.append((self.fake_A.detach(), self.fake_B.detach()))
            self.optimizer_G.step()
        self.optimizer_D.zero_grad()
        for backward in (self.backward_D_A, self.backward_D_B):  # each pool gets the whole batch
            for place in self.micro_batches():
                self.fake_A, self.fake_B = fakes[place]
                backward()
        self.optimizer_D.step()
