"""What users get wrong: each ends in one message that names the thing and the remedy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, TWO_EPOCHS, picture, write_pictures

import test
import train
from models import networks
from util import distributed

ROOT = Path(__file__).parent.parent


def good_pairs(folder, width=64):
    write_pictures(folder / "train", 3, width=width)
    write_pictures(folder / "test", 1, width=width)
    return folder


def train_on(folder, *more, model="pix2pix"):
    return train.main, ["--dataroot", str(folder), "--model", model, *TINY, *TWO_EPOCHS, *more]


def test_on(folder, *more, model="pix2pix"):
    argv = ["--dataroot", str(folder), "--model", model, "--gpu_ids", "-1", "--ngf", "4"]
    return test.main, [*argv, "--netG", "resnet_6blocks", "--crop_size", "32", *more]


test_on.__test__ = False  # builds a command line


def with_weights(folder, netG="resnet_6blocks", norm="batch", ngf=4, name="experiment_name"):
    checkpoints = Path("checkpoints", name)
    checkpoints.mkdir(parents=True)
    net = networks.define_G(3, 3, ngf, netG, norm, True)
    torch.save(net.state_dict(), checkpoints / "latest_net_G.pth")
    return good_pairs(folder)


def missing_folder(tmp):
    return train_on(tmp / "nowhere")


def empty_folder(tmp):
    (tmp / "train").mkdir()
    return train_on(tmp)


def folder_of_text(tmp):
    (tmp / "train").mkdir()
    (tmp / "train" / "notes.txt").write_text("no image")
    return train_on(tmp)


def unaligned_data_for_pix2pix(tmp):
    for part, count in {"trainA": 3, "trainB": 2}.items():
        write_pictures(tmp / part, count)
    (tmp / "trainA" / "1.png").rename(tmp / "trainA" / "lonely.png")
    return train_on(tmp)


def aligned_data_for_cycle_gan(tmp):
    return train_on(good_pairs(tmp), model="cycle_gan")


def one_side_missing(tmp):
    write_pictures(tmp / "trainA", 2)
    return train_on(tmp, model="cycle_gan")


def not_an_image(tmp):
    good_pairs(tmp)
    (tmp / "train" / "2.png").write_text("hello")
    return train_on(tmp)


def truncated_image(tmp):
    path = good_pairs(tmp) / "train" / "2.png"
    path.write_bytes(path.read_bytes()[:200])
    return train_on(tmp)


def unreadable_in_a_worker(tmp):
    not_an_image(tmp)
    return train_on(tmp, "--num_threads", "2")


def phase_that_is_not_there(tmp):
    return train_on(good_pairs(tmp), "--phase", "val")


def sizes_that_do_not_batch(tmp):
    good_pairs(tmp)
    picture(5, 128, 96).save(tmp / "train" / "odd.png")
    return train_on(tmp, "--preprocess", "none", "--batch_size", "4")


def no_size_for_the_unet(tmp):
    more = ["--preprocess", "none", "--netG", "unet_128"]
    return train_on(good_pairs(tmp), *more)


def too_small_for_the_discriminator(tmp):
    more = ["--preprocess", "none"]
    return train_on(good_pairs(tmp, width=40), *more, "--n_layers_D", "5", "--netD", "n_layers")


def crop_larger_than_load(tmp):
    return train_on(good_pairs(tmp), "--crop_size", "40")


def unknown_option(tmp):
    return train_on(good_pairs(tmp), "--lamda_L1", "4")


def unknown_model(tmp):
    return train_on(good_pairs(tmp), "--model", "pix2pixhd")


def unknown_dataset_mode(tmp):
    return train_on(good_pairs(tmp), "--dataset_mode", "alined")


def unknown_norm(tmp):
    return train_on(good_pairs(tmp), "--norm", "layer")


def word_for_a_number(tmp):
    return train_on(good_pairs(tmp), "--batch_size", "many")


def batch_size_zero(tmp):
    return train_on(good_pairs(tmp), "--batch_size", "0")


def no_epochs(tmp):
    return train_on(good_pairs(tmp), "--epoch_count", "3")


def gpu_that_does_not_exist(tmp):
    return train_on(good_pairs(tmp), "--gpu_ids", "77")


def identity_between_channels(tmp):
    return train_on(tmp, "--input_nc", "1", model="cycle_gan")


def colorization_to_three_channels(tmp):
    return train_on(good_pairs(tmp), "--output_nc", "3", model="colorization")


def one_sided_data_for_pix2pix(tmp):
    return train_on(good_pairs(tmp), "--dataset_mode", "single")


def half_period_of_nothing(tmp):
    return train_on(good_pairs(tmp), "--lr_policy", "cosine", "--n_epochs", "0")


def seed_beyond_64_bits(tmp):
    return train_on(good_pairs(tmp), "--seed", "9" * 25)


def image_too_small_in_the_middle(tmp):
    good_pairs(tmp)
    picture(3, 40, 8).save(tmp / "train" / "tiny.png")
    return train_on(tmp, "--preprocess", "none")


def damaged_train_state(tmp):
    Path("checkpoints/experiment_name").mkdir(parents=True)
    state = {"next_epoch": "two", "total_iters": 3}
    torch.save(state, "checkpoints/experiment_name/latest_train_state.pth")
    return train_on(good_pairs(tmp), "--continue_train")


def training_the_test_model(tmp):
    return train_on(good_pairs(tmp), model="test")


def nothing_to_continue(tmp):
    return train_on(good_pairs(tmp), "--continue_train")


def no_checkpoint(tmp):
    return test_on(good_pairs(tmp), "--name", "never_trained")


def no_such_epoch(tmp):
    return test_on(with_weights(tmp), "--epoch", "99")


def generator_of_a_cycle_gan(tmp):
    with_weights(tmp)
    folder = Path("checkpoints/experiment_name")
    (folder / "latest_net_G.pth").rename(folder / "latest_net_G_A.pth")
    return test_on(tmp / "test", model="test")


def wrong_architecture(tmp):
    return test_on(with_weights(tmp, netG="resnet_9blocks"))


def wrong_norm(tmp):
    return test_on(with_weights(tmp, norm="instance"))


def foreign_checkpoint(tmp):
    with_weights(tmp)
    torch.save({"epoch": 3, "model": [1]}, "checkpoints/experiment_name/latest_net_G.pth")
    return test_on(tmp)


def damaged_checkpoint(tmp):
    with_weights(tmp)
    path = Path("checkpoints/experiment_name/latest_net_G.pth")
    path.write_bytes(path.read_bytes()[:1000])
    return test_on(tmp)


def checkpoint_with_code(tmp):
    with_weights(tmp)
    torch.save({"hook": print}, "checkpoints/experiment_name/latest_net_G.pth")
    return test_on(tmp)


def checkpoints_dir_is_a_file(tmp):
    Path("taken").write_text("")
    return train_on(good_pairs(tmp), "--checkpoints_dir", "taken")


def results_dir_is_a_file(tmp):
    Path("taken").write_text("")
    return test_on(with_weights(tmp), "--results_dir", "taken")


def flag_against_the_checkpoint(tmp):
    program, argv = train_on(good_pairs(tmp))
    program(argv)
    return test_on(tmp, "--norm", "none")


def aspect_ratio_zero(tmp):
    return test_on(with_weights(tmp), "--aspect_ratio", "0")


def no_dataroot(tmp):
    return train.main, []


MISTAKES = [
    (missing_folder, "nowhere", "--dataroot"),
    (empty_folder, "train", "png"),
    (folder_of_text, "train", "png"),
    (unaligned_data_for_pix2pix, "lonely", "trainB"),
    (aligned_data_for_cycle_gan, "trainA", "--dataset_mode aligned"),
    (one_side_missing, "trainB", "--dataroot"),
    (not_an_image, "2.png", "replace it"),
    (truncated_image, "2.png", "truncated"),
    (unreadable_in_a_worker, "2.png", "replace it"),
    (phase_that_is_not_there, "val", "--phase"),
    (sizes_that_do_not_batch, "odd.png", "--preprocess resize_and_crop"),
    (no_size_for_the_unet, "128", "--preprocess resize_and_crop"),
    (too_small_for_the_discriminator, "96", "discriminator"),
    (crop_larger_than_load, "--crop_size 40", "--load_size 32"),
    (unknown_option, "--lamda_L1", "--lambda_L1"),
    (unknown_model, "pix2pixhd", "did you mean pix2pix?"),
    (unknown_dataset_mode, "alined", "did you mean aligned?"),
    (unknown_norm, "layer", "syncbatch"),
    (word_for_a_number, "--batch_size", "many"),
    (batch_size_zero, "--batch_size 0", "at least 1"),
    (no_epochs, "--epoch_count", "--n_epochs"),
    (gpu_that_does_not_exist, "77", "--gpu_ids -1"),
    (identity_between_channels, "--lambda_identity 0.5", "--lambda_identity 0 "),
    (colorization_to_three_channels, "--output_nc 3", "leave these flags out"),
    (one_sided_data_for_pix2pix, "--dataset_mode single", "--model pix2pix"),
    (half_period_of_nothing, "--lr_policy cosine", "--n_epochs 1"),
    (seed_beyond_64_bits, "--seed 999", "at most"),
    (image_too_small_in_the_middle, "tiny.png", "larger"),
    (damaged_train_state, "latest_train_state.pth", "remove it"),
    (training_the_test_model, "--model test", "--model pix2pix"),
    (nothing_to_continue, "latest_net_G.pth", "train first"),
    (no_checkpoint, "never_trained", "--name"),
    (no_such_epoch, "99_net_G.pth", "--epoch"),
    (generator_of_a_cycle_gan, "latest_net_G_A.pth", "--model_suffix"),
    (wrong_architecture, "latest_net_G.pth", "--netG resnet_9blocks"),
    (wrong_norm, "latest_net_G.pth", "--norm instance"),
    (foreign_checkpoint, "latest_net_G.pth", "no state dict"),
    (damaged_checkpoint, "latest_net_G.pth", "damaged"),
    (checkpoint_with_code, "latest_net_G.pth", "refused"),
    (checkpoints_dir_is_a_file, "taken", "--checkpoints_dir"),
    (results_dir_is_a_file, "taken", "--results_dir"),
    (flag_against_the_checkpoint, "--norm none", "--norm batch"),
    (aspect_ratio_zero, "--aspect_ratio 0", "over 0"),
    (no_dataroot, "--dataroot", "make_demo_dataset.py"),
]


@pytest.mark.parametrize(
    ("mistake", "thing", "remedy"), MISTAKES, ids=[row[0].__name__ for row in MISTAKES]
)
def test_one_message_names_the_thing_and_the_remedy(mistake, thing, remedy, tmp_path, here, capsys):
    program, argv = mistake(tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        distributed.run(lambda: program(argv))
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.count("error:") == 1 and "Traceback" not in error
    assert thing in error and remedy in error
    assert len(error) < 600


WITHOUT_CAPABILITIES = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] * (os.geteuid() == 0)


@pytest.mark.skipif(
    bool(WITHOUT_CAPABILITIES) and not shutil.which("setpriv"),
    reason="root may write anywhere, and setpriv (util-linux) is not here to give that up",
)
def test_no_permission_to_write(tmp_path, here):
    good_pairs(tmp_path / "pairs")
    (tmp_path / "locked").mkdir(mode=0o555)
    argv = train_on(tmp_path / "pairs", "--checkpoints_dir", str(tmp_path / "locked"))[1]
    done = subprocess.run(
        [*WITHOUT_CAPABILITIES, sys.executable, str(ROOT / "train.py"), *argv],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "locked" in done.stderr and "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["train.py", "test.py"])
def test_the_programs_themselves_exit_with_2(program, here):
    done = subprocess.run(
        [sys.executable, str(ROOT / program), "--dataroot", "nowhere", "--model", "pix2pix"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"{program}: error: ") and "nowhere" in done.stderr
