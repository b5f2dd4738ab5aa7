"""test.py as a whole, on tiny data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, TWO_EPOCHS, draw_image, write_images
from PIL import Image

import test
import train
from models import networks
from util.errors import UserError

DATA = {"pix2pix": "aligned", "cycle_gan": "unaligned", "colorization": "aligned"}


@pytest.fixture
def trained(request, here):
    """Train `request.param` for a moment; returns its dataset."""
    data = request.getfixturevalue(DATA[request.param])
    argv = ["--dataroot", str(data), "--name", "n", "--model", request.param]
    train.main([*argv, *TINY, *TWO_EPOCHS])
    return data


def images(folder="results/n/test_latest"):
    return sorted(path.name for path in Path(folder, "images").iterdir())


@pytest.mark.parametrize("trained", ["pix2pix"], indirect=True)
def test_results_are_where_the_original_put_them(trained, here):
    test.main(["--dataroot", str(trained), "--name", "n", "--model", "pix2pix"])
    visuals = ("fake_B", "real_A", "real_B")
    assert images() == [f"{stem}_{visual}.png" for stem in (1, 2) for visual in visuals]
    page = Path("results/n/test_latest/index.html").read_text()
    assert all(f'src="images/{name}"' in page for name in images())


@pytest.mark.parametrize("trained", ["cycle_gan"], indirect=True)
def test_both_directions_of_a_cycle_gan(trained, here):
    test.main(["--dataroot", str(trained), "--name", "n", "--model", "cycle_gan"])
    assert {"1_fake_A.png", "1_fake_B.png", "2_rec_A.png", "2_rec_B.png"} < set(images())
    for suffix, source in {"_A": "testA", "_B": "testB"}.items():
        argv = ["--dataroot", str(trained / source), "--name", "n", "--model", "test"]
        test.main(
            [*argv, "--model_suffix", suffix, "--results_dir", f"one{suffix}", "--no_dropout"]
        )
        alone = Image.open(f"one{suffix}/n/test_latest/images/1_fake.png")
        together = Image.open(f"results/n/test_latest/images/1_fake_{'BA'[suffix == '_B']}.png")
        assert np.array_equal(np.asarray(alone), np.asarray(together))


@pytest.mark.parametrize("trained", ["colorization"], indirect=True)
def test_colorization_shows_colours(trained, here):
    test.main(["--dataroot", str(trained), "--name", "n", "--model", "colorization", "--eval"])
    shown = np.asarray(Image.open("results/n/test_latest/images/1_real_B_rgb.png")).astype(int)
    source = np.asarray(Image.open(trained / "test" / "1.png").resize((32, 32), 3)).astype(int)
    assert abs(shown - source).max() <= 2  # there and back through Lab


@pytest.mark.parametrize("trained", ["pix2pix"], indirect=True)
def test_num_test_and_epoch_and_phase_choose(trained, here):
    argv = ["--dataroot", str(trained), "--name", "n", "--model", "pix2pix"]
    test.main([*argv, "--num_test", "1", "--epoch", "2", "--phase", "train"])
    assert len(images("results/n/train_2")) == 3
    assert json.loads(Path("checkpoints/n/train_opt.json").read_text())["isTrain"] is True


@pytest.mark.parametrize("trained", ["pix2pix"], indirect=True)
def test_load_iter_names_the_folder(trained, here):
    for name in ("G", "D"):
        Path(f"checkpoints/n/latest_net_{name}.pth").rename(f"checkpoints/n/iter_7_net_{name}.pth")
    argv = ["--dataroot", str(trained), "--name", "n", "--model", "pix2pix", "--load_iter", "7"]
    test.main(argv)
    assert len(images("results/n/test_latest_iter7")) == 6


@pytest.mark.parametrize(("ratio", "size"), [("2.0", (64, 32)), ("0.5", (32, 64))])
@pytest.mark.parametrize("trained", ["pix2pix"], indirect=True)
def test_aspect_ratio_is_width_over_height(trained, ratio, size, here):
    argv = ["--dataroot", str(trained), "--name", "n", "--model", "pix2pix", "--num_test", "1"]
    test.main([*argv, "--aspect_ratio", ratio])
    assert Image.open("results/n/test_latest/images/1_fake_B.png").size == size


def test_a_checkpoint_of_the_original_carries_no_options_and_loads(here, tmp_path):
    net = networks.define_G(3, 3, 4, "resnet_9blocks", "instance")
    folder = here / "checkpoints" / "horse2zebra_pretrained"
    folder.mkdir(parents=True)
    torch.save(net.state_dict(), folder / "latest_net_G.pth")
    write_images(tmp_path / "testA", 1)
    argv = ["--dataroot", str(tmp_path / "testA"), "--name", "horse2zebra_pretrained"]
    argv += ["--model", "test", "--no_dropout", "--ngf", "4", "--crop_size", "32"]
    test.main([*argv, "--gpu_ids", "-1"])
    written = np.asarray(Image.open("results/horse2zebra_pretrained/test_latest/images/1_fake.png"))
    image = np.array(Image.open(tmp_path / "testA" / "1.png"))
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = (net(x)[0].detach().permute(1, 2, 0).numpy() + 1) / 2 * 255
    assert abs(written - expected.clip(0, 255)).max() <= 1.01


@pytest.mark.parametrize("trained", ["pix2pix"], indirect=True)
def test_eval_is_repeatable_and_dropout_noise_is_seeded(trained, here):
    """At test time dropout and batch statistics stay on, unless --eval (as in the original)."""
    argv = ["--dataroot", str(trained), "--name", "n", "--model", "pix2pix"]
    outputs = {}
    for run, more in {"a": [], "b": [], "eval": ["--eval"]}.items():
        test.main([*argv, "--results_dir", run, *more])
        outputs[run] = Path(run, "n/test_latest/images/1_fake_B.png").read_bytes()
    assert outputs["a"] == outputs["b"] != outputs["eval"]


def test_equal_stems_do_not_overwrite_each_other(here, tmp_path):
    net = networks.define_G(3, 3, 4, "resnet_6blocks", "instance")
    Path("checkpoints/n").mkdir(parents=True)
    torch.save(net.state_dict(), "checkpoints/n/latest_net_G.pth")
    for sub in ("a", "b", "c"):
        write_images(tmp_path / "set" / sub, 1)
    draw_image(9).save(tmp_path / "set" / "a" / "1_2.png")
    argv = ["--dataroot", str(tmp_path / "set"), "--name", "n", "--model", "test", "--ngf", "4"]
    test.main([*argv, "--netG", "resnet_6blocks", "--no_dropout", "--crop_size", "32"])
    folder = Path("results/n/test_latest/images")
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*_fake.png"))
    assert found == ["a/1_2_fake.png", "a/1_fake.png", "b/1_fake.png", "c/1_fake.png"]
    assert sorted(re.findall(r'src="images/([\w/]+_fake.png)"', page_text())) == found


def saved_run(kind="pix2pix", suffixes=("",), **options):
    """A checkpoint as training leaves it, with random weights."""
    folder = Path("checkpoints/n")
    folder.mkdir(parents=True)
    net = networks.define_G(3, 3, 4, "resnet_6blocks", "instance")
    for suffix in suffixes:
        torch.save(net.state_dict(), folder / f"latest_net_G{suffix}.pth")
    saved = {"model": kind, "ngf": 4, "netG": "resnet_6blocks", "norm": "instance"}
    saved |= {"no_dropout": True, "crop_size": 32, "input_nc": 3, "output_nc": 3}
    (folder / "train_opt.json").write_text(json.dumps(saved | options))
    return ["--name", "n", "--gpu_ids", "-1"]


def test_one_photo_comes_back_in_its_own_size_or_is_said_to_be_smaller(here, tmp_path, capsys):
    write_images(tmp_path / "set", 1, width=90, height=71)
    photo = tmp_path / "set" / "1.png"
    argv = ["--dataroot", str(photo), *saved_run()]
    test.main(argv)
    assert Image.open("results/n/test_latest/images/1_fake.png").size == (32, 32)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "--preprocess none" in x]
    assert "90x71" in line and "32x32" in line
    test.main([*argv, "--preprocess", "none"])
    assert Image.open("results/n/test_latest/images/1_fake.png").size == (90, 71)
    assert "scaled" not in capsys.readouterr().out
    test.main([*argv, "--preprocess", "none", "--tile", "16"])
    tiled = np.asarray(Image.open("results/n/test_latest/images/1_fake.png"))
    test.main([*argv, "--preprocess", "none", "--tile", "0"])
    whole = np.asarray(Image.open("results/n/test_latest/images/1_fake.png"))
    assert abs(tiled.astype(int) - whole).max() <= 1 and tiled.std() > 0


@pytest.mark.parametrize("there, asked, hint", [
    (("_A", "_B"), "", "--model_suffix _A or give --model_suffix _B"),
    (("",), "_A", "leave --model_suffix out"),
])  # fmt: skip
def test_the_generators_that_are_there_are_named(here, tmp_path, there, asked, hint):
    write_images(tmp_path / "set", 1)
    argv = ["--dataroot", str(tmp_path / "set"), *saved_run("cycle_gan", there)]
    with pytest.raises(UserError, match=hint):
        test.main([*argv, "--model_suffix", asked])


def test_one_side_alone_is_sent_to_the_model_test(here, tmp_path):
    write_images(tmp_path / "set" / "testA", 1)
    argv = ["--dataroot", str(tmp_path / "set"), *saved_run("cycle_gan", ("_A", "_B"))]
    with pytest.raises(UserError) as error:
        test.main([*argv, "--model", "cycle_gan"])
    assert f"--model test --dataroot {tmp_path}/set/testA --model_suffix _A" in str(error.value)
    test.main(["--dataroot", str(tmp_path / "set" / "testA"), *argv[2:], "--model_suffix", "_A"])


@pytest.mark.parametrize("run, argv, hint", [
    ("colorization", [], "--model colorization"),
    ("pix2pix", ["--model", "pix2pix", "--dataset_mode", "single"], "--model test"),
])  # fmt: skip
def test_models_that_do_not_fit_name_the_one_that_does(here, tmp_path, capsys, run, argv, hint):
    write_images(tmp_path / "set", 1)
    with pytest.raises(SystemExit):
        test.main(["--dataroot", str(tmp_path / "set"), *saved_run(run), *argv])
    assert hint in capsys.readouterr().err


def test_the_dataset_of_the_training_is_remembered_with_its_options(here, tmp_path):
    write_images(tmp_path / "set" / "test", 2)
    argv = ["--dataroot", str(tmp_path / "set")]
    argv += saved_run(dataset_mode="template", hole_size=0.75, value_range_A=None)
    test.main([*argv, "--model", "pix2pix"])
    saved = json.loads(Path("results/n/test_latest/test_opt.json").read_text())
    assert (saved["dataset_mode"], saved["hole_size"]) == ("template", 0.75)
    holed = np.asarray(Image.open("results/n/test_latest/images/1_real_A.png"))
    assert (holed == 128).all(-1).sum() == 24 * 24
    test.main([*argv, "--model", "pix2pix", "--hole_size", "0.5"])
    saved = json.loads(Path("results/n/test_latest/test_opt.json").read_text())
    assert saved["hole_size"] == 0.5


def page_text():
    return Path("results/n/test_latest/index.html").read_text()
