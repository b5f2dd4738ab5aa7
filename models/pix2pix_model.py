"""pix2pix: paired image-to-image translation (Isola et al., CVPR 2017, arXiv 1611.07004).

    min_G max_D  E log D(A, B) + E log(1 - D(A, G(A)))  +  lambda_L1 · E |B - G(A)|

The noise of the paper is dropout in the generator, kept on when testing.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

import torch

from models import networks
from models.base_model import BaseModel
from models.networks.activation_checkpointing import keep_running_stats
from models.step import call_batched, check_discriminator, frozen
from util.image_pool import ImagePool


class Pix2PixModel(BaseModel):
    """A U-Net generator against a PatchGAN discriminator that sees input and output together."""

    needs = ("A", "B")
    records_step = True
    check_options = staticmethod(check_discriminator)

    @staticmethod
    def modify_commandline_options(parser: ArgumentParser, is_train: bool) -> ArgumentParser:
        """The settings of the paper: batch norm, U-Net 256, aligned pairs, vanilla GAN and L1."""
        parser.set_defaults(norm="batch", netG="unet_256", dataset_mode="aligned")
        if is_train:
            parser.set_defaults(pool_size=0, gan_mode="vanilla")
            add = parser.add_argument
            add("--lambda_L1", type=float, default=100.0, least=0, help="weight of L1 loss")
        return parser

    def __init__(self, opt: Namespace):
        super().__init__(opt)
        self.model_names = ["G", "D"] if self.isTrain else ["G"]
        self.visual_names = ["real_A", "fake_B", "real_B"]
        self.netG = networks.build_G(opt, opt.input_nc, opt.output_nc)
        if self.isTrain:
            self._build_training(opt)

    def _build_training(self, opt: Namespace) -> None:
        self.loss_names = ["G_GAN", "G_L1", "D_real", "D_fake"]
        if opt.gan_mode == "wgangp":
            self.loss_names.append("D_gp")
        self.netD = networks.build_D(opt, opt.input_nc + opt.output_nc)
        self.fake_AB_pool = ImagePool(opt.pool_size)
        self.criterionGAN = networks.GANLoss(opt.gan_mode).to(self.device)
        self.criterionL1 = torch.nn.L1Loss()
        self.optimizer_G = self.add_adam(self.netG)
        self.optimizer_D = self.add_adam(self.netD)

    def set_input(self, input: Mapping[str, Any]) -> None:
        """Take a pair; --direction says which half is the input."""
        self.real_A, self.real_B = self.take_pair(input)

    def forward(self) -> None:
        """G(A)."""
        self.fake_B = self.netG(self.real_A)

    def backward_D(self) -> None:
        """Half of log D(A, B) + log(1 - D(A, G(A))), the factor of the paper's section 3.3."""
        real_AB = torch.cat((self.real_A, self.real_B), 1)
        fake_AB = self.fake_AB_pool.query(torch.cat((self.real_A, self.fake_B), 1))
        of_fake, of_real = call_batched(self.netD, fake_AB, real_AB)
        self.loss_D_fake = self.criterionGAN(of_fake, False)
        self.loss_D_real = self.criterionGAN(of_real, True)
        self.loss_D_gp = networks.gradient_penalty(self.opt, self.netD, real_AB, fake_AB)
        self.loss_D = (self.loss_D_fake + self.loss_D_real + self.loss_D_gp) * 0.5
        self.backward(self.loss_D)

    def backward_G(self) -> None:
        """Fool D, and stay near B."""
        pred_fake = self.netD(torch.cat((self.real_A, self.fake_B), 1))
        self.loss_G_GAN = self.criterionGAN(pred_fake, True)
        self.loss_G_L1 = self.criterionL1(self.fake_B, self.real_B) * self.opt.lambda_L1
        self.loss_G = self.loss_G_GAN + self.loss_G_L1
        self.backward(self.loss_G)

    def optimize_parameters(self) -> None:
        """One step of D, then one of G, which meets the new D."""
        again = self.is_accumulating  # the graphs of G in all micro-batches would not fit
        self.optimizer_D.zero_grad()
        for _ in self.micro_batches():
            if again:
                with torch.no_grad(), keep_running_stats(self.netG):
                    self.forward()
            else:
                self.forward()
            self.backward_D()
        self.optimizer_D.step()
        with frozen(self.netD):
            self.optimizer_G.zero_grad()
            for _ in self.micro_batches():
                if again:
                    self.forward()
                self.backward_G()
            self.optimizer_G.step()
