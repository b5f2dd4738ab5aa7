"""Small models that are ready to train, their batches and gradients."""

import torch
from conftest import TINY
from formulas import formula_image
from torch import nn

from models import create_model
from models.base_model import BaseModel
from options.train_options import TrainOptions
from util import distributed, rng


def build(name="pix2pix", *more):
    rng.seed_everything(3)
    argv = ["--dataroot", "none", "--model", name, *TINY, "--no_dropout", "--init_gain", "0.1"]
    opt = TrainOptions().parse([*argv, *more])
    model = create_model(opt)
    model.setup(opt)
    return model


def batch_of(count, size=(32, 32), other=None, seed=0):
    sizes = (size, other or size)
    a, b = (formula_image(count, 3, *s, 0.4 + i + seed) for i, s in enumerate(sizes))
    paths = [f"{i}" for i in range(count)]
    return {"A": a.float(), "B": b.float(), "A_paths": paths, "B_paths": paths}


def parameters(model):
    nets = model.named_networks().items()
    return {f"{n}.{k}": p for n, net in nets for k, p in net.named_parameters()}


def gradients(model):
    return {k: p.grad.clone() for k, p in parameters(model).items() if p.grad is not None}


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys() and len(found) > 10
    whole = sum(float(g.square().sum()) for g in expected.values()) ** 0.5
    off = sum(float((found[k] - expected[k]).square().sum()) for k in expected) ** 0.5
    assert off / whole < tolerance, off / whole


def gradients_on_rank(opt):
    """One step on this rank's share of a batch of four."""
    rng.seed_everything(3)
    model = create_model(opt)
    model.setup(opt)
    place = distributed.rank() * 2
    whole = batch_of(4)
    model.train_on({k: v[place : place + 2] for k, v in whole.items()})
    nets = {n: distributed.unwrap(net) for n, net in model.named_networks().items()}
    return {f"{n}.{k}": p.grad for n, net in nets.items() for k, p in net.named_parameters()}


class TwoOptimizers(BaseModel):
    """Somebody's own, with plain calls of backward."""

    def __init__(self, opt):
        super().__init__(opt)
        self.model_names, self.loss_names = ["A", "B"], ["A"]
        self.netA, self.netB = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.optimizers = [torch.optim.SGD(n.parameters(), 0.1) for n in (self.netA, self.netB)]

    def set_input(self, input):
        self.image = input["A"].to(self.device)

    def forward(self):
        self.output = self.netB(self.netA(self.image))

    def optimize_parameters(self):
        for optimizer in self.optimizers:  # the second one after a step of the first
            optimizer.zero_grad()
            self.forward()
            self.loss_A = self.output.square().mean()
            self.loss_A.backward()
            optimizer.step()


def own(kind=TwoOptimizers, *more, name="template"):
    rng.seed_everything(0)
    opt = TrainOptions().parse(["--dataroot", "none", "--model", name, *TINY, *more])
    return kind(opt), opt
