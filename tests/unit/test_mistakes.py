"""What users get wrong: each ends in one message that names the thing and the remedy."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, TWO_EPOCHS, draw_image, write_images
from jobs import WITHOUT_CAPABILITIES
from PIL import Image

import test
import train
from models import networks
from util import distributed

ROOT = Path(__file__).parents[2]


def good_pairs(folder, width=64):
    write_images(folder / "train", 3, width=width)
    write_images(folder / "test", 1, width=width)
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
        write_images(tmp / part, count)
    (tmp / "trainA" / "1.png").rename(tmp / "trainA" / "lonely.png")
    return train_on(tmp)


def one_side_missing(tmp):
    write_images(tmp / "trainA", 2)
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


def sizes_that_do_not_batch(tmp):
    good_pairs(tmp)
    draw_image(5, 128, 96).save(tmp / "train" / "odd.png")
    return train_on(tmp, "--preprocess", "none", "--batch_size", "4")


def no_size_for_the_unet(tmp):
    more = ["--preprocess", "none", "--netG", "unet_128"]
    return train_on(good_pairs(tmp), *more)


def too_small_for_the_discriminator(tmp):
    more = ["--preprocess", "none"]
    return train_on(good_pairs(tmp, width=40), *more, "--n_layers_D", "5", "--netD", "n_layers")


def image_too_small_in_the_middle(tmp):
    good_pairs(tmp)
    draw_image(3, 40, 8).save(tmp / "train" / "tiny.png")
    return train_on(tmp, "--preprocess", "none")


def damaged_train_state(tmp):
    Path("checkpoints/experiment_name").mkdir(parents=True)
    state = {"next_epoch": "two", "total_iters": 3}
    torch.save(state, "checkpoints/experiment_name/latest_train_state.pth")
    return train_on(good_pairs(tmp), "--continue_train")


def nothing_to_continue_and_no_data(tmp):
    return train.main, ["--name", "nobody", "--continue_train"]


def no_checkpoint(tmp):
    return test_on(good_pairs(tmp), "--name", "never_trained")


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


def no_dataroot(tmp):
    return train.main, []


def dataroot_is_a_file(tmp):
    (tmp / "images.zip").write_text("PK")
    return train_on(tmp / "images.zip")


def folder_that_may_not_be_read(tmp):
    """Root may read all: a loop of links is what nobody can read."""
    (tmp / "train").symlink_to(tmp / "train")
    return train_on(tmp)


def in_place_of_2(tmp, put):
    path = good_pairs(tmp) / "train" / "2.png"
    path.unlink()
    put(path)
    return train_on(tmp)


def image_of_no_bytes(tmp):
    return in_place_of_2(tmp, Path.touch)


def link_to_nowhere(tmp):
    return in_place_of_2(tmp, lambda path: path.symlink_to("nowhere.png"))


def drawing_with_the_name_of_a_photo(tmp):
    return in_place_of_2(tmp, lambda path: path.write_text("<svg/>"))


def decompression_bomb(tmp):
    huge = Image.new("1", (20_000, 20_000))  # 50 kB on the disk
    return in_place_of_2(tmp, huge.save)


def pair_of_one_column(tmp):
    return in_place_of_2(tmp, draw_image(1, 1, 10).save)


def images_of_an_unknown_kind(tmp):
    (tmp / "train").mkdir()
    (tmp / "train" / "photo.psd").write_text("")
    return train_on(tmp)


def pipe_among_the_images(tmp):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names here")
    return in_place_of_2(tmp, os.mkfifo)


STATE = Path("checkpoints/n/latest_train_state.pth")


def continuing(tmp, *more, model="template"):
    """Two epochs have been trained; the command line that continues the run."""
    program, argv = train_on(good_pairs(tmp), "--name", "n", "--no_html", model="template")
    program(argv)
    return train_on(tmp, "--name", "n", "--no_html", "--continue_train", *more, model=model)


def with_state(tmp, change):
    """A run that is continued for a third epoch from a state that was changed."""
    program, argv = continuing(tmp, "--n_epochs", "2")
    state = torch.load(STATE, weights_only=True)
    STATE.unlink()  # it is another name of that of epoch 2
    torch.save(change(state), STATE)
    return program, argv


def half_a_state(tmp):
    program, argv = continuing(tmp, "--n_epochs", "2")
    half = STATE.read_bytes()[: STATE.stat().st_size // 2]
    STATE.unlink()
    STATE.write_bytes(half)
    return program, argv


def empty_state(tmp):
    program, argv = continuing(tmp, "--n_epochs", "2")
    STATE.unlink()
    STATE.touch()
    return program, argv


def state_with_code(tmp):
    return with_state(tmp, lambda state: state | {"options": print})


def foreign_state(tmp):
    return with_state(tmp, lambda state: {"epoch": 3, "model": {}})


def newer_state(tmp):
    return with_state(tmp, lambda state: state | {"format": state["format"] + 1})


def state_of_other_networks(tmp):
    return with_state(tmp, lambda state: state | {"objects": {"netX": {}}})


def log_that_is_a_folder(tmp):
    program, argv = continuing(tmp, "--n_epochs", "2")
    Path("checkpoints/n/loss_log.txt").unlink()
    Path("checkpoints/n/loss_log.txt").mkdir()
    return program, argv


def page_that_is_a_file(tmp):
    Path("checkpoints/experiment_name").mkdir(parents=True)
    Path("checkpoints/experiment_name/web").write_text("")
    return train_on(good_pairs(tmp), model="template")


def with_options(tmp, text):
    with_weights(tmp)
    Path("checkpoints/experiment_name/train_opt.json").write_text(text)
    return test_on(tmp)


def damaged_options(tmp):
    return with_options(tmp, '{"ngf": 4,')


def options_in_a_list(tmp):
    return with_options(tmp, "[1, 2]")


def option_of_another_kind(tmp):
    return with_options(tmp, '{"ngf": "many"}')


def discriminator_as_generator(tmp):
    with_weights(tmp)
    net = networks.define_D(6, 4, "basic")
    torch.save(net.state_dict(), "checkpoints/experiment_name/latest_net_G.pth")
    return test_on(tmp)


def results_where_nothing_can_be(tmp):
    if not Path("/proc").is_dir():
        pytest.skip("a place where not even root can write is known on Linux only")
    return test_on(with_weights(tmp), "--results_dir", "/proc/nowhere")


FLAGS = {  # wrong ones for a command that is right: what the message names, the remedy
    "train": [
        ("--model cycle_gan", "trainA", "--dataset_mode aligned"),
        ("--phase val", "val", "--phase"),
        ("--crop_size 40", "--crop_size 40", "--load_size 32"),
        ("--lamda_L1 4", "--lamda_L1", "--lambda_L1"),
        ("--model pix2pixhd", "pix2pixhd", "did you mean pix2pix?"),
        ("--dataset_mode alined", "alined", "did you mean aligned?"),
        ("--norm layer", "layer", "syncbatch"),
        ("--batch_size many", "--batch_size", "many"),
        ("--batch_size 0", "--batch_size 0", "at least 1"),
        ("--epoch_count 3", "--epoch_count", "--n_epochs"),
        ("--gpu_ids 77", "77", "--gpu_ids -1"),
        ("--model cycle_gan --input_nc 1", "--lambda_identity 0.5", "--lambda_identity 0 "),
        ("--model colorization --output_nc 3", "--output_nc 3", "leave these flags out"),
        ("--dataset_mode single", "--dataset_mode single", "--model pix2pix"),
        ("--lr_policy cosine --n_epochs 0", "--lr_policy cosine", "--n_epochs 1"),
        (f"--seed {'9' * 25}", "--seed 999", "at most"),
        ("--model test", "--model test", "--model pix2pix"),
        ("--continue_train", "latest_train_state.pth", "--checkpoints_dir"),
        ("--name ../n", "--name ../n", "--checkpoints_dir"),
        (f"--name {'n' * 300}", "File name too long", "--name"),
        ("--name /n", "--name /n", "--checkpoints_dir"),
        ("--name .", "--name .", "--checkpoints_dir"),
        ("--name ''", "--name", "give the experiment a plain name"),
        (f"--model template --name {'n' * 300}", "nnnnn", "too long"),
        ("--suffix '{colour}'", "--suffix {colour}", "{load_size}"),
        ("--direction BtA", "--direction", "'AtoB', 'BtoA'"),
        ("--keep_last 0", "--keep_last 0", "at least 1"),
        ("--lr nan", "--lr nan", "finite"),
        ("--lr inf", "--lr inf", "finite"),
        ("--lr -0.1", "--lr -0.1", "at least 0"),
        ("--lambda_L1 -5", "--lambda_L1 -5", "at least 0"),
        ("--model cycle_gan --lambda_A nan", "--lambda_A nan", "finite"),
        ("--beta1 2", "--beta1 2", "at most 0.9999"),
        (f"--n_epochs {'9' * 40}", "--n_epochs 99999", "at most"),
        ("--batch_size 2 --global_batch_size 2", "--global_batch_size", "give one of them"),
        ("--global_batch_size 0", "--global_batch_size 0", "at least 1"),
        ("--lr", "--lr", "expected one argument"),
        ("-lr 3", "-lr", "--name value"),
    ],
    "test": [
        ("--epoch 99", "99_net_G.pth", "--epoch"),
        ("--aspect_ratio 0", "--aspect_ratio 0", "at least 0.01"),
        ("--num_test 0", "--num_test 0", "at least 1"),
        ("--aspect_ratio inf", "--aspect_ratio inf", "finite"),
        ("--aspect_ratio 1e9", "--aspect_ratio 1000000000.0", "at most 100"),
        ("--continue_train", "--continue_train", "--help"),
    ],
    "continue": [
        ("--n_epochs 2 --ngf 8", "--ngf 8 (it has --ngf 4)", "leave them out"),
        ("--model pix2pix --n_epochs 2", "--model pix2pix (it has --model template)", "--name"),
        ("--n_epochs 2 --epoch_count 2", "--epoch_count 2", "leave them out"),
        ("--epoch 7", "7_train_state.pth", "choose with --epoch"),
        ("--load_iter 500", "iter_500_train_state.pth", "--load_iter"),
    ],
}
MISTAKES = [
    (missing_folder, "nowhere", "--dataroot"),
    (empty_folder, "train", "png"),
    (folder_of_text, "train", "png"),
    (unaligned_data_for_pix2pix, "lonely", "trainB"),
    (one_side_missing, "trainB", "--dataroot"),
    (not_an_image, "2.png", "replace it"),
    (truncated_image, "2.png", "truncated"),
    (unreadable_in_a_worker, "2.png", "replace it"),
    (sizes_that_do_not_batch, "odd.png", "--preprocess resize_and_crop"),
    (no_size_for_the_unet, "128", "--preprocess resize_and_crop"),
    (too_small_for_the_discriminator, "96", "discriminator"),
    (image_too_small_in_the_middle, "tiny.png", "larger"),
    (damaged_train_state, "latest_train_state.pth", "remove"),
    (nothing_to_continue_and_no_data, "latest_train_state.pth", "--name"),
    (no_checkpoint, "never_trained", "--name"),
    (generator_of_a_cycle_gan, "latest_net_G_A.pth", "--model_suffix"),
    (wrong_architecture, "latest_net_G.pth", "--netG resnet_9blocks"),
    (wrong_norm, "latest_net_G.pth", "--norm instance"),
    (foreign_checkpoint, "latest_net_G.pth", "no state dict"),
    (damaged_checkpoint, "latest_net_G.pth", "damaged"),
    (checkpoint_with_code, "latest_net_G.pth", "refused"),
    (checkpoints_dir_is_a_file, "taken", "--checkpoints_dir"),
    (results_dir_is_a_file, "taken", "--results_dir"),
    (flag_against_the_checkpoint, "--norm none", "--norm batch"),
    (no_dataroot, "--dataroot", "make_demo_dataset.py"),
    (dataroot_is_a_file, "images.zip", "--dataroot"),
    (folder_that_may_not_be_read, "train", "--dataroot"),
    (image_of_no_bytes, "2.png", "replace it"),
    (link_to_nowhere, "2.png", "replace it"),
    (drawing_with_the_name_of_a_photo, "2.png", "replace it"),
    (decompression_bomb, "2.png", "make it smaller"),
    (pair_of_one_column, "2.png", "side by side"),
    (images_of_an_unknown_kind, "photo.psd", ".png"),
    (pipe_among_the_images, "2.png", "pipe"),
    (half_a_state, "latest_train_state.pth", "remove"),
    (empty_state, "latest_train_state.pth", "remove"),
    (state_with_code, "latest_train_state.pth", "refused"),
    (foreign_state, "latest_train_state.pth", "remove"),
    (newer_state, "latest_train_state.pth", "train on with that"),
    (state_of_other_networks, "latest_train_state.pth: ", "remove the training state"),
    (log_that_is_a_folder, "loss_log.txt", "Is a directory"),
    (page_that_is_a_file, "web", "--no_html"),
    (damaged_options, "train_opt.json", "remove"),
    (options_in_a_list, "train_opt.json", "remove"),
    (option_of_another_kind, "train_opt.json", "ngf cannot be 'many'"),
    (discriminator_as_generator, "latest_net_G.pth", "architecture"),
    (results_where_nothing_can_be, "/proc/nowhere", "--results_dir"),
]


RIGHT = {
    "train": lambda tmp, *flags: train_on(good_pairs(tmp), *flags),
    "test": lambda tmp, *flags: test_on(with_weights(tmp), *flags),
    "continue": continuing,
}


def assert_one_message(command, thing, remedy, capsys):
    program, argv = command
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        distributed.run(lambda: program(argv))
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.count("error:") == 1 and "Traceback" not in error
    assert thing in error and remedy in error
    assert len(error) < 600


@pytest.mark.parametrize(
    ("kind", "flags", "thing", "remedy"),
    [(kind, *row) for kind, rows in FLAGS.items() for row in rows],
)
def test_a_wrong_flag(kind, flags, thing, remedy, tmp_path, here, capsys):
    assert_one_message(RIGHT[kind](tmp_path, *shlex.split(flags)), thing, remedy, capsys)


@pytest.mark.parametrize(
    ("mistake", "thing", "remedy"), MISTAKES, ids=[row[0].__name__ for row in MISTAKES]
)
def test_one_message_names_the_thing_and_the_remedy(mistake, thing, remedy, tmp_path, here, capsys):
    assert_one_message(mistake(tmp_path), thing, remedy, capsys)


@pytest.mark.skipif(
    bool(WITHOUT_CAPABILITIES) and not shutil.which("setpriv"),
    reason="root may write anywhere, and setpriv (util-linux) is not here to give that up",
)
def test_no_permission_to_write(tmp_path, here):
    good_pairs(tmp_path / "pairs")
    (tmp_path / "locked").mkdir(mode=0o555)
    argv = train_on(tmp_path / "pairs", "--checkpoints_dir", str(tmp_path / "locked"))[1]
    error = error_of_program("train.py", argv, *WITHOUT_CAPABILITIES)
    assert "locked" in error and "Permission denied" in error


def test_the_programs_themselves_exit_with_2(here):
    """For train.py, see above."""
    assert "nowhere" in error_of_program("test.py", ["--dataroot", "nowhere"])


def error_of_program(program, argv, *before):
    done = subprocess.run(
        [*before, sys.executable, str(ROOT / program), *argv],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"{program}: error: " in done.stderr
    return done.stderr
