"""People's own model and dataset files, written from the contract and not from ours."""

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, TWO_EPOCHS
from PIL import Image

import data
import models
import test
import train

MODEL = """
import torch
from .base_model import BaseModel
from . import networks


class TwoHeadModel(BaseModel):
    @staticmethod
    def modify_commandline_options(parser, is_train=True):
        parser.set_defaults(norm='batch', dataset_mode='ramp', netG='resnet_6blocks')
        parser.add_argument('--ramp_steps', type=int, default=4, help='steps')
        if is_train:
            parser.add_argument('--lambda_rec', type=float, default=2.0)
        return parser

    def __init__(self, opt):
        BaseModel.__init__(self, opt)
        self.loss_names = ['rec', 'edge']
        self.visual_names = ['image', 'smooth']
        self.model_names = ['Encoder', 'Head']
        self.netEncoder = networks.define_G(opt.input_nc, 4, opt.ngf, opt.netG, opt.norm,
                                            not opt.no_dropout, opt.init_type, opt.init_gain,
                                            self.gpu_ids)
        self.netHead = torch.nn.Sequential(torch.nn.Conv2d(4, 3, 1), torch.nn.Tanh())
        networks.init_weights(self.netHead, opt.init_type, opt.init_gain)
        if self.isTrain:
            params = list(self.netEncoder.parameters()) + list(self.netHead.parameters())
            self.optimizer = torch.optim.SGD(params, lr=opt.lr)
            self.optimizers.append(self.optimizer)

    def set_input(self, input):
        self.image = input['A'].to(self.device)
        self.image_paths = input['A_paths']

    def forward(self):
        self.smooth = self.netHead(self.netEncoder(self.image))

    def backward(self):
        self.loss_rec = (self.smooth - self.image).abs().mean() * self.opt.lambda_rec
        self.loss_edge = (self.smooth[..., 1:] - self.smooth[..., :-1]).abs().mean()
        (self.loss_rec + self.loss_edge).backward()

    def optimize_parameters(self):
        self.forward()
        self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()
"""

DATASET = """
import os
import random

import numpy as np
import torch
from PIL import Image

from data.base_dataset import BaseDataset, get_params, get_transform
from data.image_folder import make_dataset
from util.image_pool import ImagePool
from util.util import mkdirs, save_image, tensor2im


class RampDataset(BaseDataset):
    @staticmethod
    def modify_commandline_options(parser, is_train):
        parser.add_argument('--ramp_noise', type=float, default=0.1)
        return parser

    def __init__(self, opt):
        BaseDataset.__init__(self, opt)
        self.dir = os.path.join(opt.dataroot, opt.phase)
        self.paths = sorted(make_dataset(self.dir, opt.max_dataset_size))

    def __getitem__(self, index):
        path = self.paths[index]
        image = Image.open(path).convert('RGB')
        params = get_params(self.opt, image.size)
        A = get_transform(self.opt, params)(image)
        noise = random.random() + np.random.rand() + torch.rand(1).item()
        A = (A + self.opt.ramp_noise * (noise - 1.5)).clamp(-1, 1)
        return {'A': A, 'A_paths': path}

    def __len__(self):
        return len(self.paths)
"""


@pytest.fixture
def plugged_in(tmp_path, monkeypatch):
    """The two files, in folders that join the packages for the length of a test."""
    for package, name, text in ((models, "two_head_model", MODEL), (data, "ramp_dataset", DATASET)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    for name in ("models.two_head_model", "data.ramp_dataset"):
        sys.modules.pop(name, None)


def test_a_model_and_a_data_set_from_the_contract_run_unchanged(plugged_in, aligned, here):
    argv = ["--dataroot", str(aligned), "--name", "n", "--model", "two_head"]
    train.main([*argv, *TINY, *TWO_EPOCHS, "--lambda_rec", "3", "--ramp_noise", "0.2"])
    folder = here / "checkpoints" / "n"
    assert {"latest_net_Encoder.pth", "latest_net_Head.pth"} <= {f.name for f in folder.iterdir()}
    assert "rec: " in (folder / "loss_log.txt").read_text()
    assert list((folder / "web/images").glob("epoch002_smooth.png"))
    test.main([*argv, "--ramp_steps", "2"])
    written = {f.name for f in Path("results/n/test_latest/images").iterdir()}
    assert written == {"1_image.png", "1_smooth.png", "2_image.png", "2_smooth.png"}


def test_a_plug_in_is_repeatable_without_knowing_it(plugged_in, aligned, here):
    for name, workers in {"a": "0", "b": "2"}.items():
        argv = ["--dataroot", str(aligned), "--name", name, "--model", "two_head"]
        train.main([*argv, *TINY, *TWO_EPOCHS, "--num_threads", workers])
    a, b = (torch.load(here / f"checkpoints/{n}/latest_net_Head.pth") for n in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_names_that_people_import():
    from data.base_dataset import BaseDataset, get_params, get_transform  # noqa: F401
    from data.image_folder import make_dataset  # noqa: F401
    from models import networks
    from models.base_model import BaseModel  # noqa: F401
    from util.image_pool import ImagePool  # noqa: F401
    from util.util import mkdirs, save_image, tensor2im  # noqa: F401

    for name in ("get_norm_layer", "define_G", "define_D", "GANLoss", "get_scheduler",
                 "init_weights", "cal_gradient_penalty"):  # fmt: skip
        assert callable(getattr(networks, name))


def test_a_file_with_a_mistake_of_its_own_shows_that_mistake(tmp_path, monkeypatch):
    (tmp_path / "broken_model.py").write_text("import not_there_at_all\n")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        models.find_model_using_name("broken")


CRITIC = """
import torch
from models.pix2pix_model import Pix2PixModel


class CriticModel(Pix2PixModel):
    @staticmethod
    def modify_commandline_options(parser, is_train=True):
        Pix2PixModel.modify_commandline_options(parser, is_train)
        parser.set_defaults(netG='mine', gan_mode='wgangp')
        parser.add_argument('--lambda_gp', type=float, default=3.5)  # there is one here by now
        return parser

    def __init__(self, opt):
        opt.netG = 'resnet_6blocks'
        Pix2PixModel.__init__(self, opt)
        self.learning_rate = 0.1  # names that a user may have chosen
        self.metric_names = ['a']
        self.netG = torch.nn.DataParallel(self.netG, self.gpu_ids)
        self.teacher = torch.nn.Conv2d(3, 3, 1)  # in no list
        self.steps = 0

    def backward_D(self):
        self.set_requires_grad([self.netG, None])
        Pix2PixModel.backward_D(self)
        self.set_requires_grad(self.netG, True)

    def optimize_parameters(self):
        self.steps += 1
        self.forward()
        self.optimizer_D.zero_grad()
        self.backward_D()
        self.optimizer_D.step()
        if self.steps % 2 == 0:  # so there is no loss_G_GAN after the first step
            self.optimizer_G.zero_grad()
            self.forward()
            self.backward_G()
            self.optimizer_G.step()
"""


def test_a_subclass_of_pix2pix_with_habits_of_its_own(tmp_path, monkeypatch, aligned, here):
    (tmp_path / "critic_model.py").write_text(CRITIC)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    argv = ["--dataroot", str(aligned), "--name", "n", "--model", "critic"]
    tiny = [a for a in TINY if a not in ("--netG", "resnet_6blocks")]
    try:
        tiny += ["--print_freq", "4"]
        train.main([*argv, *tiny, *TWO_EPOCHS, "--lambda_gp", "2"])
        assert "lambda_gp: 2.0" in Path("checkpoints/n/train_opt.txt").read_text()
        state = torch.load("checkpoints/n/latest_net_G.pth", weights_only=True)
        assert not any(key.startswith("module.") for key in state)
        test.main(argv)
        train.main([*argv, *tiny, "--continue_train", "--n_epochs", "3", "--n_epochs_decay", "0"])
    finally:
        sys.modules.pop("models.critic_model", None)


def test_images_of_a_plug_in_may_be_grey(here):
    from util.util import tensor2im

    grey = tensor2im(torch.zeros(1, 1, 4, 4))
    Image.fromarray(grey)
    assert np.array_equal(grey, np.full((4, 4, 3), 127))
