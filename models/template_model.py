"""An example to copy for a model of your own: images from A to B by plain regression.

Copy this file to models/my_own_model.py, call the class MyOwnModel, and train it with
`--model my_own`. Ranks, resume, logs and the page need nothing from you.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

import torch

from models import networks
from models.base_model import BaseModel


class TemplateModel(BaseModel):
    """min_G  lambda_regression · |G(A) - B|."""

    needs = ("A", "B")

    @staticmethod
    def modify_commandline_options(parser: ArgumentParser, is_train: bool) -> ArgumentParser:
        """Your own options, with `least` and more (options/parser.py), and better defaults."""
        parser.set_defaults(dataset_mode="aligned")
        if is_train:
            add = parser.add_argument
            add("--lambda_regression", type=float, default=1.0, least=0, help="weight of the loss")
        return parser

    def __init__(self, opt: Namespace):
        super().__init__(opt)
        self.loss_names = ["G"]  # self.loss_G, after a step
        self.visual_names = ["data_A", "output", "data_B"]  # self.data_A, …
        self.model_names = ["G"]  # self.netG, saved as latest_net_G.pth
        self.netG = networks.build_G(opt, opt.input_nc, opt.output_nc)
        if self.isTrain:
            self.criterion = torch.nn.L1Loss()
            self.optimizer = self.add_adam(self.netG)  # or self.optimizers.append(any other)

    def set_input(self, input: Mapping[str, Any]) -> None:
        """Move a batch of the dataset to the device."""
        self.data_A, self.data_B = self.take_pair(input)

    def forward(self) -> None:
        """Make the output; training and testing both call this."""
        self.output = self.netG(self.data_A)

    def optimize_parameters(self) -> None:
        """Output, loss, gradients, update."""
        self.optimizer.zero_grad()
        for _ in self.micro_batches():  # the batch, or with --accumulate its parts
            self.forward()
            self.loss_G = self.criterion(self.output, self.data_B) * self.opt.lambda_regression
            self.backward(self.loss_G)  # as loss.backward(), for every --precision
        self.optimizer.step()
