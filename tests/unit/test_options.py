import argparse
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from formulas import REFERENCE, reference

import models
from options.parser import Parser
from options.test_options import TestOptions as OptionsOfTest  # a Test… name would be collected
from options.train_options import TrainOptions
from util.run_record import save_options

PROGRAMS = {"train": TrainOptions, "test": OptionsOfTest}
DIFFERENT = {
    ("test", "--num_test"): float("inf"),  # the original stops at 50 images
    ("train", "--num_threads"): None,  # the original has 4 and says nothing of the machine
    ("test", "--num_threads"): None,
}


def parse(program, *argv):
    return PROGRAMS[program]().parse([*argv])


def error_of(capsys, program, *argv):
    with pytest.raises(SystemExit) as exit:
        parse(program, *argv)
    assert exit.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("case", reference("options"))
def test_every_option_of_the_original_is_there_with_its_default(case, here):
    program, model = case.split()
    parser = PROGRAMS[program]().build_parser(["--model", model])
    known = [name for action in parser._actions for name in action.option_strings]
    for option, expected in reference("options")[case].items():
        assert option in known, option
        default = DIFFERENT.get((program, option), expected["default"])
        if option == "--model":  # what comes without --model
            default = "cycle_gan" if program == "train" else "test"
        elif default is not None and expected["type"] in ("int", "float"):
            default = float(default)
        assert parser.get_default(option[2:]) == default, option


@pytest.mark.parametrize("case", reference("options"))
def test_every_option_of_the_original_can_be_typed_with_its_default(case, here):
    program, model = case.split()
    argv = ["--dataroot", "x"]
    for option, expected in reference("options")[case].items():
        if expected["type"] == "flag":
            argv += [option] if expected["default"] else []
        elif option != "--dataroot":
            argv += [option, str(expected["default"])]
    argv[argv.index("--model") + 1] = model
    opt = parse(program, *argv)
    assert (opt.model, opt.norm) == (model, reference("options")[case]["--norm"]["default"])


def weights_of(name):
    """Stands for weights of the original, from which --continue_train starts."""
    Path("checkpoints", name).mkdir(parents=True)
    Path("checkpoints", name, "latest_net_G.pth").touch()


def commands():
    lines = (REFERENCE / "commands.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("line", commands())
def test_command_lines_of_the_original_are_accepted(line, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))  # --use_wandb looks for it
    words = shlex.split(line)
    program = next(i for i, word in enumerate(words) if word in ("train.py", "test.py"))
    argv = words[program + 1 :]
    weights_of(argv[argv.index("--name") + 1])
    opt = parse(words[program].removesuffix(".py"), *argv)
    assert opt.dataroot == argv[argv.index("--dataroot") + 1]
    assert opt.name == argv[argv.index("--name") + 1]


def test_values_reach_opt(here):
    opt = parse("train", "--dataroot", "x", "--model", "pix2pix", "--lambda_L1", "7", "--norm=none")
    assert (opt.lambda_L1, opt.norm, opt.isTrain, opt.netG) == (7.0, "none", True, "unet_256")
    assert isinstance(opt.device, torch.device) and opt.seed == 0


@pytest.mark.parametrize(
    ("alias", "norm"), [("sync_batch", "syncbatch"), ("sync_instance", "instance")]
)
def test_norm_aliases(alias, norm, here):
    assert parse("train", "--dataroot", "x", "--norm", alias).norm == norm


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_needs_no_dataroot_and_shows_the_model_s_own_options(program, capsys, here):
    with pytest.raises(SystemExit) as exit:
        parse(program, "--model", "cycle_gan", "--help")
    assert exit.value.code == 0
    help = capsys.readouterr().out
    assert ("--lambda_identity" in help) == (program == "train")
    assert "--lambda_L1" not in help and "--netG" in help


def test_help_shows_the_data_set_s_own_options(capsys, here):
    with pytest.raises(SystemExit):
        parse("train", "--dataset_mode", "template", "--help")
    own = capsys.readouterr().out
    with pytest.raises(SystemExit):
        parse("train", "--help")
    assert len(own) > len(capsys.readouterr().out)


UNKNOWN = {
    "--btach_size": ["--batch_size"],
    "--niter": ["--n_epochs"],
    "--niter_decay": ["--n_epochs_decay"],
    "--loadSize": ["--load_size"],
    "--fineSize": ["--crop_size"],
    "--batchSize": ["--batch_size"],
    "--which_model_netG": ["--netG"],
    "--no_lsgan": ["--gan_mode vanilla"],
    "--resize_or_crop": ["--preprocess"],
    "--identity": ["--lambda_identity"],
    "--which_direction": ["--direction"],
    "--how_many": ["--num_test"],
    "--which_epoch": ["--epoch"],
}


def test_unknown_options_get_a_suggestion(capsys, here):
    """All at once, those of the original of 2017 and 2018 under their present names."""
    given = [word for name in UNKNOWN for word in (name, "9")]
    error = error_of(capsys, "train", "--dataroot", "x", *given)
    lines = {line.split(":")[-2].split()[-1]: line for line in error.splitlines()}
    for name, suggestions in UNKNOWN.items():
        assert all(word in lines[name] for word in suggestions), lines[name]
    assert "usage" not in error and "unexpected argument" not in error


PROBLEMS = {  # what is given: what the message has
    ("--crop_size", "300"): ["--crop_size 300 is larger", "multiples of 256"],
    ("--netG", "unet_256"): ["--netG unet_256"],
    ("--epoch_count", "201"): ["--epoch_count", "200"],
    ("--input_nc", "1"): ["--lambda_identity 0.5"],
    ("--batch_size", "0"): ["--batch_size 0"],
    ("--suffix", "{nothing}"): ["{nothing}"],
    ("--no_such", ""): ["--no_such"],
    ("--gpu_ids", "77"): ["no GPU 77"],
    ("--seed", "9" * 30): ["--seed 999"],
    ("--netD", "huge"): ["--netD", "'huge'", "'pixel'"],
    ("--ngf", "many"): ["--ngf", "'many'"],
    ("--beta1", "1"): ["--beta1 1.0", "at most 0.9999"],
    ("--no_flip=3", ""): ["--no_flip"],
    ("--dropout", "--no_dropout"): ["--dropout", "not allowed with"],
    ("--display_freq", ""): ["--display_freq", "expected one argument"],
}


def test_all_problems_are_reported_together(capsys, here):
    words = [word for pair in PROBLEMS for word in pair if word]
    error = error_of(capsys, "train", "--dataroot", "x", "--model", "cycle_gan", *words)
    assert error.count("error:") == 1
    for parts in PROBLEMS.values():
        for part in parts:
            assert part in error, part


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("option", ["--model", "--dataset_mode"])
def test_an_unknown_model_or_dataset_does_not_hide_the_rest(program, option, capsys, here):
    argv = ["--dataroot", "x", option, "alignd", "--ngf", "0", "--suffix", "{colour}"]
    error = error_of(capsys, program, *argv, "--no_such", "1")
    for part in (f"{option} alignd", "--ngf 0", "{colour}", "--no_such"):
        assert part in error


@pytest.mark.parametrize("batch", ["0", "many"])
def test_a_wrong_value_is_told_once(batch, capsys, here):
    """Not again by what is computed of it, such as the batch over all ranks."""
    error = error_of(capsys, "train", "--dataroot", "x", "--batch_size", batch)
    assert error.count("batch_size") == 1 and len(error.splitlines()) == 1


def test_a_wrong_size_is_not_compared_with_others(capsys, here):
    error = error_of(capsys, "train", "--dataroot", "x", "--load_size", "big", "--crop_size", "512")
    assert "'big'" in error and "512" not in error


PLUG_IN = """
from models.template_model import TemplateModel


class MineModel(TemplateModel):
    @staticmethod
    def modify_commandline_options(parser, is_train):
        parser = TemplateModel.modify_commandline_options(parser, is_train)
        parser.set_defaults(num_threads=4, n_epochs=7)
        group = parser.add_argument_group("mine")
        group.add_argument("--depth", type=int, default=2, least=1, most=9, on_resume="may change")
        group.add_argument("--plain", type=int, default=2)
        group.add_argument("--tags", action="append", default=[])
        group.add_argument("--key", required=True)
        either = group.add_mutually_exclusive_group()
        either.add_argument("--warm", type=float, nargs="+", least=0)
        either.add_argument("--cold", action="store_true")
        return parser
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A model of one's own, whose options have ranges, or none, as argparse has them."""
    (tmp_path / "mine_model.py").write_text(PLUG_IN)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    yield ["--dataroot", "x", "--model", "mine"]
    sys.modules.pop("models.mine_model", None)


def test_options_of_a_plug_in(mine, here):
    argv = [*mine, "--key", "k", "--tags", "a", "--tags", "b", "--plain", "-5", "--warm", "1", "2"]
    opt = parse("train", *argv)
    assert (opt.tags, opt.plain, opt.warm, opt.depth) == (["a", "b"], -5, [1.0, 2.0], 2)
    assert (opt.num_threads, opt.n_epochs) == (4, 7)


def test_options_of_a_plug_in_have_ranges_if_it_gives_them(mine, capsys, here):
    error = error_of(capsys, "train", *mine, "--depth", "10", "--warm", "1", "-2", "--cold")
    for part in ("--depth 10", "at most 9", "--warm -2.0", "at least 0", "--key", "--cold"):
        assert part in error, part


def test_a_misspelt_keyword_value_is_the_plug_in_s_own_error():
    with pytest.raises(ValueError, match="may chnage"):
        Parser().add_argument("--x", on_resume="may chnage")


def test_every_option_says_by_itself_what_resuming_does_with_it(here):
    parser = TrainOptions().build_parser([])
    assert parser.on_resume("print_freq") == parser.on_resume("n_epochs") == "may change"
    assert parser.on_resume("continue_train") == parser.on_resume("name") == "not restored"
    assert parser.on_resume("lr") == parser.on_resume("netG") == "keep"


def test_last_epoch_may_be_trained_alone(here):
    weights_of("experiment_name")
    opt = parse("train", "--dataroot", "x", "--continue_train", "--epoch_count", "200")
    assert opt.epoch_count == 200


def test_unet_sizes(capsys, here):
    good = ["--dataroot", "x", "--model", "pix2pix", "--load_size", "512", "--crop_size", "512"]
    assert parse("train", *good).crop_size == 512
    assert "multiples of 256" in error_of(capsys, "train", *good[:-1], "400")
    assert parse("train", *good[:-1], "384", "--netG", "unet_128").crop_size == 384
    assert parse("train", *good[:-1], "400", "--netG", "resnet_6blocks").crop_size == 400


def test_images_too_small_for_the_networks(capsys, here):
    """A PatchGAN of n halvings keeps a 2 x 2 map for its last two convolutions from 3 · 2**n."""
    argv = ["--dataroot", "x", "--load_size", "300", "--crop_size"]
    template = ["--model", "template"]  # has no discriminator
    assert parse("train", *argv, "5", *template).crop_size == 5
    assert "5 or more" in error_of(capsys, "train", *argv, "4", *template)
    assert "use 24 or more" in error_of(capsys, "train", *argv, "23")
    assert parse("train", *argv, "24").crop_size == 24
    more = ["--netD", "n_layers", "--n_layers_D", "5"]
    assert "use 96 or more" in error_of(capsys, "train", *argv, "95", *more)
    assert parse("train", *argv, "5", "--netD", "pixel").crop_size == 5


def test_a_value_range_goes_up(capsys, here):
    argv = ["--dataroot", "x", "--model", "pix2pix", "--value_range_B"]
    assert "--value_range_B 5 5" in error_of(capsys, "train", *argv, "5", "5")
    assert parse("train", *argv, "-5", "5.5").value_range_B == [-5, 5.5]


def test_dropout_can_be_switched_on_where_the_default_is_off(capsys, here):
    assert parse("train", "--dataroot", "x").no_dropout is True
    assert parse("train", "--dataroot", "x", "--dropout").no_dropout is False
    assert parse("train", "--dataroot", "x", "--model", "pix2pix").no_dropout is False
    assert "not allowed with" in error_of(
        capsys, "train", "--dataroot", "x", "--dropout", "--no_dropout"
    )


def test_gpu_ids(capsys, here, monkeypatch):
    assert parse("train", "--dataroot", "x", "--gpu_ids", "-1").device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "Big GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    opt = parse("train", "--dataroot", "x", "--gpu_ids", "1")
    assert opt.device == torch.device("cuda", 1) and opt.gpu_ids == [1]
    assert parse("train", "--dataroot", "x").device == torch.device("cuda", 0)
    error = error_of(capsys, "train", "--dataroot", "x", "--gpu_ids", "3")
    assert "no GPU 3" in error and "0 (Big GPU), 1 (Big GPU)" in error
    assert "list of numbers" in error_of(capsys, "train", "--dataroot", "x", "--gpu_ids", "one")
    capsys.readouterr()
    parse("train", "--dataroot", "x", "--gpu_ids", "0,1")
    assert "torchrun --nproc_per_node=2" in capsys.readouterr().out


def test_visdom_options_are_ignored_with_one_line(capsys, here):
    parse("train", "--dataroot", "x", "--display_id", "-1", "--display_port", "8097")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "--display_id, --display_port: ignored" in lines[0]
    parse("train", "--dataroot", "x")
    assert capsys.readouterr().out == ""


def test_suffix_is_filled_in(here):
    opt = parse("train", "--dataroot", "x", "--name", "n", "--suffix", "{model}_size{load_size}")
    assert opt.name == "n_cycle_gan_size286"


def test_abbreviations_work_as_argparse_has_them(here):
    assert parse("train", "--dataroot", "x", "--mod", "pix2pix").lambda_L1 == 100.0


@pytest.fixture
def trained(here):
    """An experiment whose training saved its options."""
    argv = ["--model", "pix2pix", "--netG", "unet_128", "--norm", "instance", "--ngf", "8"]
    argv += ["--crop_size", "128", "--load_size", "143", "--direction", "BtoA", "--name", "t"]
    opt = parse("train", "--dataroot", "x", *argv)
    folder = Path("checkpoints/t")
    folder.mkdir(parents=True)
    save_options(opt, folder)
    return folder


@pytest.mark.parametrize("model", ["pix2pix", "test"])
def test_testing_reads_the_network_options_of_the_training(trained, model):
    opt = parse("test", "--dataroot", "x", "--name", "t", "--model", model)
    assert (opt.netG, opt.norm, opt.ngf, opt.no_dropout) == ("unet_128", "instance", 8, False)
    assert (opt.crop_size, opt.load_size, opt.direction) == (128, 128, "BtoA")
    assert (opt.batch_size, opt.serial_batches, opt.no_flip) == (1, True, True)


def test_a_flag_that_contradicts_the_checkpoint_is_an_error_with_both_values(trained, capsys):
    argv = ["--dataroot", "x", "--name", "t", "--model", "pix2pix"]
    error = error_of(capsys, "test", *argv, "--netG", "resnet_9blocks", "--no_dropout")
    assert "--netG resnet_9blocks (it has --netG unet_128)" in error
    assert "--no_dropout (it has --dropout)" in error and "checkpoints/t" in error
    assert parse("test", *argv, "--netG", "unet_128", "--norm", "instance").ngf == 8


def test_batch_and_syncbatch_do_not_contradict_each_other(trained):
    saved = json.loads((trained / "train_opt.json").read_text())
    (trained / "train_opt.json").write_text(json.dumps(saved | {"norm": "syncbatch"}))
    argv = ["--dataroot", "x", "--name", "t", "--model", "pix2pix", "--norm", "batch"]
    assert parse("test", *argv).norm == "batch"


def test_dropout_of_a_unet_may_be_switched_off_for_testing(here):
    """It is no part of the keys; in a ResNet it moves them."""
    for netG, crop in {"unet_128": "128", "resnet_6blocks": "64"}.items():
        argv = ["--netG", netG, "--crop_size", crop, "--load_size", crop, "--name", netG]
        folder = Path("checkpoints", netG)
        folder.mkdir(parents=True)
        save_options(parse("train", "--dataroot", "x", "--model", "pix2pix", *argv), folder)
    argv = ["--dataroot", "x", "--model", "pix2pix", "--no_dropout"]
    assert parse("test", *argv, "--name", "unet_128").no_dropout is True
    with pytest.raises(SystemExit):
        parse("test", *argv, "--name", "resnet_6blocks")


@pytest.mark.parametrize(("suffix", "channels"), [("_A", (1, 3)), ("_B", (3, 1))])
def test_each_direction_of_a_cycle_gan_has_its_own_channels(suffix, channels, here):
    argv = ["--input_nc", "1", "--output_nc", "3", "--lambda_identity", "0", "--name", "c"]
    Path("checkpoints/c").mkdir(parents=True)
    save_options(parse("train", "--dataroot", "x", *argv), Path("checkpoints/c"))
    opt = parse("test", "--dataroot", "x", "--name", "c", "--model_suffix", suffix)
    assert (opt.input_nc, opt.output_nc) == channels


def test_the_whole_image_is_tested_unless_the_user_says_otherwise(here):
    argv = ["--dataroot", "x", "--model", "pix2pix"]
    assert parse("test", *argv).load_size == 256
    assert parse("test", *argv, "--crop_size", "512").load_size == 512
    assert parse("test", *argv, "--load_size", "512").crop_size == 256


def test_a_forgotten_model_is_mentioned(trained, capsys):
    parse("test", "--dataroot", "x", "--name", "t")
    assert "--model pix2pix" in capsys.readouterr().out
    parse("test", "--dataroot", "x", "--name", "t", "--model", "test")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", ["not json", "[1]", '{"netG": 5}', '{"ngf": "wide"}'])
def test_a_damaged_options_file_is_one_message(trained, content, capsys):
    (trained / "train_opt.json").write_text(content)
    error = error_of(capsys, "test", "--dataroot", "x", "--name", "t", "--model", "pix2pix")
    assert "train_opt.json" in error and "remove it" in error


def test_saved_options_say_what_ran(trained):
    saved = json.loads((trained / "train_opt.json").read_text())
    assert (saved["ngf"], saved["lambda_L1"], saved["max_dataset_size"]) == (8, 100.0, "inf")
    assert "netG: unet_128" in (trained / "train_opt.txt").read_text()


def test_what_a_plug_in_may_ask_of_argparse():
    parser = Parser(add_help=False)
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--left")
    one.add_argument("--right")
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--switch", action=switch, required=True, on_resume="may change")
    opt, given, problems = parser.read(["--left", "1", "--no-switch"])
    assert (opt.left, opt.switch, problems) == ("1", False, []) and given == {"left", "switch"}
    assert parser.on_resume("switch") == "may change"
    wrong = "\n".join(parser.read([])[2])
    assert "--left or --right" in wrong and "--switch" in wrong


@pytest.mark.parametrize(
    "value, how",
    [
        (2.5, dict(type=float, default=10)),
        (3.5, dict(type=float, default="10")),
        (["a", "b"], dict(action="append")),
        (2, dict(action="count")),
        (True, dict(action=argparse.BooleanOptionalAction)),
        ("abc", dict(type=str.lower)),
    ],
)
def test_what_an_option_was_given_is_a_value_that_it_accepts_when_a_run_is_continued(value, how):
    parser = Parser(add_help=False)
    parser.add_argument("--it", **how)
    assert parser.accepts("it", value) and not parser.accepts("it", {"a": 1})
