"""Testing fast: batches that change no image, half precision, images written in threads."""

import gc
import json
import os
import threading
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_images
from PIL import Image
from torch import nn

import test
from data import outputs
from data.outputs import Outputs
from models import networks
from models.inference import batching, half_precision
from models.networks.generators import ResnetGenerator, UnetGenerator
from util.background import QUEUE, Background
from util.errors import UserError
from util.reports import results_page
from util.util import tensor2im, to_uint8

SMALL_UNET = ["--netG", "unet_128", "--crop_size", "128", "--ngf", "2"]


def checkpoint(netG="resnet_6blocks", norm="instance", ngf=4, dropout=False, name="G"):
    torch.manual_seed(0)
    net = networks.define_G(3, 3, ngf, netG, norm, dropout, "kaiming")
    Path("checkpoints/n").mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), f"checkpoints/n/latest_net_{name}.pth")
    return net


def run(data, out, *argv):
    test.main(["--dataroot", str(data), "--name", "n", "--gpu_ids", "-1", "--num_threads", "0",
               "--results_dir", out, *argv])  # fmt: skip
    folder = next(Path(out, "n").iterdir())
    return {p.name: np.asarray(Image.open(p)).astype(int) for p in folder.glob("images/*.png")}


def difference(some, others):
    assert some.keys() == others.keys() and some
    return max(abs(some[name] - others[name]).max() for name in some)


# ---- what a plain loop would write -----------------------------------------------------------


def plain_images(net, files, size):
    """Batch 1, float32, one after the other, with nothing of util/."""
    images = {}
    for path in files:
        image = Image.open(path).convert("RGB")
        if image.width == 2 * image.height:
            image = image.crop((0, 0, image.height, image.height))
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            y = net((x - 0.5) / 0.5)[0].permute(1, 2, 0).numpy()
        images[path.stem] = ((y + 1) / 2 * 255).clip(0, 255).round().astype(np.uint8)
    return images


def test_the_default_writes_the_images_of_a_plain_loop(here, tmp_path):
    write_images(tmp_path / "set", 3)
    net = checkpoint()
    argv = ["--model", "test", "--netG", "resnet_6blocks", "--ngf", "4", "--no_dropout"]
    written = run(tmp_path / "set", "r", *argv, "--crop_size", "32")
    expected = plain_images(net, sorted((tmp_path / "set").iterdir()), 32)
    for stem, image in expected.items():
        difference = abs(written[f"{stem}_fake.png"] - image.astype(int))
        assert difference.max() <= 1 and difference.mean() < 1e-3  # 127.5 goes up or down


def test_the_dropout_of_pix2pix_is_drawn_as_by_a_plain_loop(here, tmp_path):
    write_images(tmp_path / "d" / "test", 5, width=256, height=128)
    net = checkpoint("unet_128", "batch", 2, dropout=True)
    argv = ["--model", "pix2pix", *SMALL_UNET, "--seed", "3"]
    alone = run(tmp_path / "d", "alone", *argv)
    torch.manual_seed(3)
    networks.define_G(3, 3, 2, "unet_128", "batch", True)  # draws its weights first
    expected = plain_images(net, sorted((tmp_path / "d" / "test").iterdir()), 128)
    for stem, image in expected.items():
        rounding = abs(alone[f"{stem}_fake_B.png"].astype(int) - image).max()
        assert rounding <= 1  # of faster layers
    torch.manual_seed(4)
    other = plain_images(net, sorted((tmp_path / "d" / "test").iterdir()), 128)
    assert abs(other["1"].astype(int) - expected["1"]).max() > 20  # dropout matters here


# ---- batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("more", [["--no_dropout"], ["--dropout", "--eval"]])
def test_a_batch_changes_no_image(norm, more, here, tmp_path):
    write_images(tmp_path / "set", 7)
    checkpoint(norm=norm, dropout="--dropout" in more)
    argv = ["--model", "test", "--netG", "resnet_6blocks", "--ngf", "4", "--crop_size", "32"]
    argv += ["--norm", norm, *more]
    alone = run(tmp_path / "set", "alone", *argv)
    for size in ("3", "50"):
        assert difference(alone, run(tmp_path / "set", size, *argv, "--batch_size", size)) <= 1


def test_dropout_of_a_batch_is_other_noise_and_that_is_said(here, tmp_path, monkeypatch, capsys):
    write_images(tmp_path / "d" / "test", 5, width=256, height=128)
    checkpoint("unet_128", "batch", 2, dropout=True)
    argv = ["--model", "pix2pix", *SMALL_UNET]
    alone = run(tmp_path / "d", "alone", *argv)
    counts = []
    join = batching.join
    monkeypatch.setattr(batching, "join", lambda g, n: counts.append(len(g)) or join(g, n))
    batched = run(tmp_path / "d", "two", *argv, "--batch_size", "2")
    assert counts == [2, 2, 1]
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "--batch_size 2" in x]
    assert "dropout" in line and "--eval" in line
    assert difference(alone, batched) > 20
    assert mean_difference(alone, batched) < 40  # noise, not another image


def test_sizes_that_differ_go_in_batches_of_their_own_in_order(here, tmp_path, monkeypatch):
    for number, width in enumerate((32, 32, 32, 48, 32, 48, 48)):
        write_images(tmp_path / f"part{number}", 1, width=width)
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / f"part{number}" / "1.png").rename(tmp_path / "set" / f"{number}.png")
    checkpoint()
    argv = ["--model", "test", "--netG", "resnet_6blocks", "--ngf", "4", "--no_dropout"]
    argv += ["--preprocess", "none"]
    alone = run(tmp_path / "set", "alone", *argv)
    counts = []
    join = batching.join
    monkeypatch.setattr(batching, "join", lambda g, n: counts.append(len(g)) or join(g, n))
    assert difference(alone, run(tmp_path / "set", "two", *argv, "--batch_size", "2")) <= 1
    assert counts == [2, 1, 1, 1, 2]
    page = Path("two/n/test_latest/index.html").read_text()
    places = [page.index(f'src="images/{number}_fake.png"') for number in range(7)]
    assert places == sorted(places)


class Odd(nn.Module):
    def forward(self, x):
        return x - x.mean()


@pytest.mark.parametrize(
    ("net", "foreign"),
    [
        (nn.Sequential(nn.Conv2d(3, 3, 1), Odd()), "Odd"),
        (nn.Sequential(nn.BatchNorm1d(3)), "BatchNorm1d"),
        (nn.Sequential(nn.BatchNorm1d(3)).eval(), ""),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).eval(), ""),
        (UnetGenerator(3, 3, 5, 2, nn.BatchNorm2d, True), ""),
        (ResnetGenerator(3, 3, 2, nn.InstanceNorm2d, True), ""),
    ],
)
def test_what_may_look_at_a_whole_batch_is_named(net, foreign):
    assert batching.unsupported_modules([net]) == foreign


PLUG_IN = """
from models.test_model import TestModel


class LookingModel(TestModel):
    def forward(self):
        self.fake = self.netG(self.real - self.real.mean())
"""


def test_a_model_that_may_look_at_a_whole_batch_stays_at_one(here, tmp_path, monkeypatch, capsys):
    import sys

    import models

    (tmp_path / "looking_model.py").write_text(PLUG_IN)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    write_images(tmp_path / "set", 3)
    checkpoint()
    argv = ["--model", "looking", "--netG", "resnet_6blocks", "--ngf", "4", "--no_dropout"]
    try:
        alone = run(tmp_path / "set", "alone", *argv)
        assert difference(alone, run(tmp_path / "set", "two", *argv, "--batch_size", "2")) == 0
    finally:
        sys.modules.pop("models.looking_model", None)
    assert "--batch_size 2 stays at 1: LookingModel may look" in capsys.readouterr().out


def test_batches_are_filled_up_for_compiled_networks():
    group = [{"A": torch.full((1, 1), float(i)), "A_paths": [str(i)]} for i in range(3)]
    batch = batching.join(group, 5)
    assert batch["A"].flatten().tolist() == [0, 1, 2, 2, 2]
    assert batch["A_paths"] == ["0", "1", "2"]


# ---- precision -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "build",
    [
        partial(ResnetGenerator, 3, 3, 4, nn.InstanceNorm2d, n_blocks=2),
        partial(ResnetGenerator, 3, 3, 4, nn.BatchNorm2d, n_blocks=2),
        partial(UnetGenerator, 3, 3, 5, 4, nn.BatchNorm2d),
        partial(UnetGenerator, 3, 3, 5, 4, nn.InstanceNorm2d),
    ],
)
def test_half_weights_are_near_float64(build, dtype, batch):
    torch.manual_seed(0)
    net = build()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias, 0, 0.3)
    x = torch.rand(batch, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        exact = torch.cat([net.double()(one[None].double()) for one in x])
        half_precision.to_half_precision([net.float()], dtype)
        ours = net(x)
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().mean() < (0.02 if dtype == torch.bfloat16 else 0.003)


def test_half_precision_leaves_norm_layers_and_unknown_networks_alone():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    half_precision.to_half_precision([net], torch.bfloat16)
    assert net[0].weight.dtype == torch.bfloat16 and net[1].weight.dtype == torch.float32
    odd = nn.Sequential(nn.Conv2d(3, 3, 1), Odd())
    half_precision.to_half_precision([odd], torch.bfloat16)
    assert odd[0].weight.dtype == torch.float32


def mean_difference(some, others):
    return max(abs(some[name] - others[name]).mean() for name in some if "fake" in name)


def test_bfloat16_shows_nearly_the_images_of_float32(here, tmp_path, capsys):
    write_images(tmp_path / "d" / "test", 5, width=256, height=128)
    checkpoint("unet_128", "batch", 2)
    argv = ["--model", "pix2pix", *SMALL_UNET, "--no_dropout"]
    exact = run(tmp_path / "d", "exact", *argv)
    argv += ["--precision", "bf16"]
    alone = run(tmp_path / "d", "alone", *argv)
    assert 0 < mean_difference(exact, alone) < 4
    assert mean_difference(alone, run(tmp_path / "d", "two", *argv, "--batch_size", "2")) < 4
    assert "--batch_size" not in capsys.readouterr().out


@pytest.mark.parametrize("side", [4, 40])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_norms_of_single_images(kind, side):
    """Of a batch, in the plain way and in that of half precision, as of one image after another."""
    torch.manual_seed(1)
    norm = kind(5)
    if kind is nn.BatchNorm2d:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    net = nn.Sequential(norm)
    x = torch.randn(3, 5, side, side).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        alone = torch.cat([net(x[i : i + 1]) for i in range(3)])
        batching.normalize_per_image([net])
        torch.testing.assert_close(net(x), alone, atol=1e-5, rtol=1e-5)
        net[0].__class__ = half_precision.ChannelsLastNorm
        torch.testing.assert_close(net(x), alone, atol=1e-5, rtol=1e-5)


# ---- images ----------------------------------------------------------------------------------


def odd_values():
    torch.manual_seed(0)
    values = torch.randn(2, 3, 16, 16)
    values[0, 0, 0, :4] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
    edges = torch.arange(256).repeat(3, 1).view(3, 16, 16) / 127.5 - 1
    return torch.cat([values, edges[None]])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pixels_are_those_of_numpy(channels, dtype):
    images = odd_values()[:, :channels].to(dtype)
    with np.errstate(over="ignore"):
        for image, pixels in zip(images, to_uint8(images).numpy(), strict=True):
            levels = np.nan_to_num(image.float().numpy())
            expected = ((levels + 1) / 2.0 * 255.0).clip(0, 255).astype(np.uint8)
            expected = expected.repeat(3 // channels, 0).transpose(1, 2, 0)
            assert np.array_equal(pixels, expected)
            assert np.array_equal(tensor2im(image), expected)


def test_results_are_on_disk_after_the_block(tmp_path):
    opt = Namespace(name="n", phase="test", epoch="5", display_winsize=8, aspect_ratio=1.0,
                    only_output=False, format=None, dataroot="a", direction="AtoB")  # fmt: skip
    levels = torch.tensor([-1.0, 1.0, 0.0]).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    opt.use_wandb = False
    with results_page.Results(opt, tmp_path, Outputs(opt, {}, {})) as results:
        results.add(["a/1.jpg", "2.jpg"], {"fake": levels})  # the third only fills up the batch
    written = sorted((tmp_path / "images").iterdir())
    assert [path.name for path in written] == ["1_fake.png", "2_fake.png"]
    assert [np.asarray(Image.open(path)).mean() for path in written] == [0, 255]


def test_names_that_are_too_long_for_a_disk_are_cut_and_stay_apart(here, tmp_path):
    long = "é" * 120
    write_images(tmp_path / "set", 2)
    for number in "12":
        (tmp_path / f"set/{number}.png").rename(tmp_path / f"set/{long}x{number}.png")
    checkpoint()
    argv = ["--model", "test", "--netG", "resnet_6blocks", "--ngf", "4", "--no_dropout"]
    run(tmp_path / "set", "r", *argv, "--crop_size", "32")
    written = list(Path("r/n/test_latest/images").iterdir())
    assert len(written) == 4 and all(len(os.fsencode(path.name)) <= 255 for path in written)
    page = Path("r/n/test_latest/index.html").read_text()
    assert page.count("<img") == 4


def test_calls_in_the_background_wait_rather_than_pile_up():
    gate, waiting = threading.Semaphore(0), []

    def add_all(background):
        for number in range(50):
            background.add(gate.acquire)
            waiting.append(number)

    with Background(3) as background:
        adding = threading.Thread(target=add_all, args=(background,))
        adding.start()
        adding.join(0.5)
        at_rest = len(waiting)
        for _ in range(50):
            gate.release()
        adding.join()
    assert (at_rest, len(waiting)) == (3 * QUEUE, 50)


def test_an_image_that_cannot_be_written_is_one_message_and_no_page(here, tmp_path, monkeypatch):
    write_images(tmp_path / "set", 40)
    checkpoint()

    def full(path, array, remedy):
        raise UserError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(outputs, "write_image", full)
    argv = ["--model", "test", "--netG", "resnet_6blocks", "--ngf", "4", "--no_dropout"]
    with pytest.raises(UserError, match="No space left"):
        run(tmp_path / "set", "r", *argv, "--crop_size", "32")
    assert not list(Path("r/n/test_latest").glob("index*"))


@pytest.mark.parametrize("settle", [True, False])
def test_an_error_in_the_background_is_raised_by_settle_or_at_the_end(settle):
    with pytest.raises(ZeroDivisionError), Background() as background:
        background.add(divmod, 1, 0)
        if settle:
            background.settle()
            pytest.fail("settle did not raise it")


def test_an_interrupt_drops_what_waits():
    done = []
    with pytest.raises(KeyboardInterrupt), Background() as background:
        for number in range(QUEUE):
            background.add(lambda number=number: time.sleep(0.1) or done.append(number))
        raise KeyboardInterrupt
    assert len(done) <= 2


def pixels_held():
    """Of all image tensors alive; the first copies of a weight would count, but are no images."""
    gc.collect()
    tensors = [o for o in gc.get_objects() if type(o) is torch.Tensor and o.dim() == 4]
    return sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize("batch_size", ["1", "4"])
def test_memory_does_not_grow_with_the_number_of_images(batch_size, here, tmp_path, monkeypatch):
    checkpoint(ngf=1)
    add, held, before = Background.add, [], pixels_held()

    def counting(self, write, *what):
        add(self, write, *what)
        if what[-1] == ["images/last_fake.png"]:
            held.append(pixels_held() - before)

    monkeypatch.setattr(Background, "add", counting)
    argv = ["--model", "test", "--netG", "resnet_6blocks", "--ngf", "1", "--no_dropout"]
    argv += ["--crop_size", "32", "--batch_size", batch_size]
    for count in (24, 96):
        folder = tmp_path / f"set{count}"
        write_images(folder, count)
        (folder / "9.png").rename(folder / "last.png")
        run(folder, f"r{count}", *argv)
    # those in the queue, which keep their batch, and what a batch is computed from and to
    most = results_page.THREADS * QUEUE + 8 * int(batch_size)
    assert len(held) == 2 and max(held) <= most * 3 * 32 * 32 < 96 * 3 * 32 * 32


def test_workers_change_nothing_and_the_batch_size_is_saved(here, tmp_path):
    write_images(tmp_path / "set", 5)
    checkpoint()
    argv = ["--model", "test", "--netG", "resnet_6blocks", "--ngf", "4", "--crop_size", "32"]
    some = run(tmp_path / "set", "a", *argv, "--no_dropout", "--batch_size", "2")
    others = run(tmp_path / "set", "b", *argv, "--no_dropout", "--batch_size", "2",
                 "--num_threads", "2")  # fmt: skip
    assert difference(some, others) == 0
    assert json.loads(Path("b/n/test_latest/test_opt.json").read_text())["batch_size"] == 2


def test_images_are_held_one_batch_at_a_time():
    """The stream may be endless: the first batch comes before the third is read."""
    net = nn.Sequential(nn.Conv2d(3, 3, 1))
    read = []

    def images():
        for i in range(1000):
            read.append(i)
            yield {"A": torch.zeros(1, 3, 4, 4), "A_paths": [str(i)]}

    from models.test_model import TestModel

    model = TestModel.__new__(TestModel)
    model.named_networks = lambda: {"G": net}
    stream = batching.image_batches(model, images(), 4, compiled=False)
    assert next(stream)["A_paths"] == ["0", "1", "2", "3"]
    assert len(read) <= 5
