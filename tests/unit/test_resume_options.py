"""The command line of a run that is continued: what it keeps, and what may change."""

from pathlib import Path

import pytest
import torch
from conftest import TINY, write_images
from same import assert_same_run, difference

import train
from options.train_options import TrainOptions
from util import checkpoint


@pytest.fixture
def data(tmp_path):
    write_images(tmp_path / "data" / "train", 3, width=64)
    return tmp_path / "data"


def command(data, *more, name="n", model="template"):
    argv = ["--dataroot", str(data), "--name", name, "--model", model, *TINY, "--no_html"]
    return [*argv, *more]


EPOCHS = ["--n_epochs", "2", "--n_epochs_decay", "1", "--lr", "0.01"]


@pytest.fixture
def trained(data, here):
    """Two epochs of three images, in checkpoints/n."""
    train.main(command(data, *EPOCHS, "--n_epochs", "1", "--save_epoch_freq", "1"))
    return data


def parse(*argv):
    return TrainOptions().parse([str(a) for a in argv])


def refusal(capsys, *argv):
    with pytest.raises(SystemExit) as exit:
        parse(*argv)
    assert exit.value.code == 2
    return capsys.readouterr().err


def test_options_of_the_run_are_taken_over(trained):
    opt = parse("--dataroot", trained, "--name", "n", "--continue_train", "--n_epochs", "5")
    assert (opt.model, opt.lr, opt.ngf, opt.netG) == ("template", 0.01, 4, "resnet_6blocks")
    assert (opt.n_epochs, opt.n_epochs_decay, opt.epoch_count) == (5, 1, 3)


def test_all_conflicts_are_one_message(trained, capsys):
    more = ["--lr", "0.5", "--ngf", "8", "--batch_size", "2", "--no_flip", "--n_epochs", "9"]
    message = refusal(capsys, *command(trained, *more, "--continue_train"))
    assert message.count("error:") == 1
    for phrase in ("--lr 0.5 (it has --lr 0.01)", "--ngf 8 (it has --ngf 4)", "--no_flip (it has"):
        assert phrase in message
    assert "--global_batch_size 2 (it has --global_batch_size 1)" in message
    assert "--n_epochs" not in message and "--crop_size" not in message
    assert "leave them out, or start a new run (--name)" in message


MAY_CHANGE = [
    ["--n_epochs", "7"], ["--n_epochs_decay", "7"], ["--print_freq", "3"], ["--display_freq", "3"],
    ["--save_latest_freq", "3"], ["--save_epoch_freq", "3"], ["--save_by_iter"],
    ["--keep_last", "2"], ["--no_html"], ["--num_threads", "1"], ["--verbose"],
    ["--dist_timeout", "3"], ["--epoch", "latest"], ["--batch_size", "1"],
    ["--global_batch_size", "1"], ["--lr", "0.010"], ["--norm", "instance"],
]  # fmt: skip


def test_what_may_change_or_stays_the_same_is_accepted(trained):
    for flags in MAY_CHANGE:
        extra = [] if "n_epochs" in flags[0] else ["--n_epochs", "7"]
        opt = parse("--dataroot", trained, "--name", "n", "--continue_train", *extra, *flags)
        assert opt.continue_train and opt.epoch_count == 3, flags


def test_resuming_from_an_earlier_epoch(trained, here):
    """Epochs 2 and 3 once more: what comes out is what came out."""
    train.main(command(trained, *EPOCHS, "--save_epoch_freq", "1", name="whole"))
    train.main(command(trained, *EPOCHS, "--save_epoch_freq", "1", name="again"))
    train.main(command(trained, "--continue_train", "--epoch", "1", name="again"))
    assert_same_run("checkpoints/whole", "checkpoints/again")


def test_weights_of_the_original_say_what_starts_afresh(trained, here, capsys):
    for state in Path("checkpoints/n").glob("*_train_state.pth"):
        state.unlink()
    before = torch.load("checkpoints/n/latest_net_G.pth", weights_only=True)
    capsys.readouterr()
    argv = command(trained, *EPOCHS, "--continue_train", "--epoch_count", "3", "--lr", "0")
    train.main(argv)
    said = capsys.readouterr().out
    assert "loaded checkpoints/n/latest_net_G.pth" in said
    (line,) = [line for line in said.splitlines() if "afresh" in line]
    for part in ("optimizers", "image pools", "random numbers", "epoch 3 (--epoch_count)"):
        assert part in line
    after = torch.load("checkpoints/n/latest_net_G.pth", weights_only=True)
    assert difference(dict(before), dict(after)) is None  # with a rate of 0


def change_state(**changes):
    path = Path("checkpoints/n/latest_train_state.pth")
    state = torch.load(path, weights_only=True)
    path.unlink()  # it may be another name of an epoch's
    torch.save(state | changes, path)


def test_a_newer_format_is_refused(trained, capsys):
    change_state(format=checkpoint.FORMAT + 1)
    message = refusal(capsys, *command(trained, *EPOCHS, "--continue_train"))
    assert "latest_train_state.pth is from a newer version" in message


def test_the_place_in_the_run_and_another_torch_are_a_line_each(trained, here, capsys):
    change_state(torch="1.99")
    train.main(command(trained, "--continue_train", "--n_epochs", "2"))
    lines = capsys.readouterr().out.splitlines()
    (version,) = [line for line in lines if "1.99" in line]
    assert str(torch.__version__) in version and "bit for bit" in version
    place = "continuing from checkpoints/n/latest_train_state.pth: epoch 3"
    assert len([line for line in lines if place in line]) == 1


def test_options_in_the_state_that_this_program_does_not_have_are_left_out(trained):
    path = "checkpoints/n/latest_train_state.pth"
    saved = torch.load(path, weights_only=True)["options"]
    change_state(options=saved | {"of_the_future": 3, "ngf": "many", "lr": 0.01})
    opt = parse("--dataroot", trained, "--name", "n", "--continue_train", "--n_epochs", "5")
    assert not hasattr(opt, "of_the_future") and opt.ngf == 64 and opt.lr == 0.01


def test_parts_of_a_batch_stay_where_batch_norm_sees_them(data, here, capsys):
    argv = command(data, "--batch_size", "2", model="pix2pix")
    train.main([*argv, "--n_epochs", "1", "--n_epochs_decay", "0"])
    more = ["--continue_train", "--n_epochs", "2"]
    assert "--accumulate 2: the run has 1" in refusal(capsys, *argv, *more, "--accumulate", "2")
    argv += ["--norm", "instance", "--name", "i"]
    train.main([*argv, "--n_epochs", "1", "--n_epochs_decay", "0"])
    assert parse(*argv, *more, "--accumulate", "2").accumulate == 2


def test_ranks_are_waited_for_longer_where_they_compile():
    argv = ["--dataroot", "none"]
    assert parse(*argv).dist_timeout == 10
    assert parse(*argv, "--compile").dist_timeout == 60
    assert parse(*argv, "--compile", "--dist_timeout", "5").dist_timeout == 5
