"""Finding datasets, folders and images; what each dataset returns; what each mistake says."""

import os
import random
from argparse import ArgumentParser

import numpy as np
import pytest
import torch
from conftest import write_images
from skimage import color
from small_datasets import dataset, options, saved, write

import data
from data.image_folder import make_dataset
from util.errors import UserError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def complaints(mode, **changes):
    """What a dataset says about options."""
    opt = options(".", dataset_mode=mode, **changes)
    return list(data.find_dataset_using_name(mode).check_options(opt))


def colour_of(tensor):
    """The (r, g, b) of a tensor of one colour."""
    pixels = ((tensor + 1) * 127.5).round().int().flatten(1)
    assert (pixels == pixels[:, :1]).all()
    return tuple(pixels[:, 0].tolist())


# --- aligned


def test_side_by_side_images(tmp_path):
    path = write(tmp_path / "train" / "a.png", RED, BLUE)
    for direction in ("AtoB", "BtoA"):  # the model swaps, not the dataset
        sample = dataset(tmp_path, "aligned", direction=direction)[0]
        assert colour_of(sample["A"]) == RED and colour_of(sample["B"]) == BLUE
        assert sample["A_paths"] == sample["B_paths"] == str(path)


def test_odd_width_drops_the_last_column(tmp_path):
    image = np.zeros((4, 9, 3), np.uint8)
    image[:, :4], image[:, 4:8] = RED, BLUE
    (tmp_path / "train").mkdir()
    saved(tmp_path / "train", image)
    sample = dataset(tmp_path, "aligned")[0]
    assert colour_of(sample["A"]) == RED and colour_of(sample["B"]) == BLUE


@pytest.mark.parametrize("folders", [("trainA", "trainB"), ("A/train", "B/train")])
def test_two_folders_pair_by_stem(tmp_path, folders):
    for name, colours in (("x/1", (RED, BLUE)), ("2", (GREEN, RED))):
        write(tmp_path / folders[0] / f"{name}.png", colours[0])
        write(tmp_path / folders[1] / f"{name}.BMP", colours[1])
    pairs = dataset(tmp_path, "aligned")
    assert len(pairs) == 2
    assert [(colour_of(s["A"]), colour_of(s["B"])) for s in pairs] == [(GREEN, RED), (RED, BLUE)]
    assert pairs[1]["B_paths"] == str(tmp_path / folders[1] / "x" / "1.BMP")
    assert len(dataset(tmp_path, "aligned", max_dataset_size=1)) == 1


def test_a_folder_of_the_phase_wins_over_two_folders(tmp_path):
    write(tmp_path / "train" / "a.png", RED, BLUE)
    write(tmp_path / "trainA" / "a.png", GREEN)
    write(tmp_path / "trainB" / "a.png", GREEN)
    assert colour_of(dataset(tmp_path, "aligned")[0]["A"]) == RED


@pytest.mark.parametrize("layout", ["side by side", "two folders"])
def test_both_halves_get_the_same_crop_and_flip(tmp_path, layout):
    half = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    if layout == "side by side":
        (tmp_path / "train").mkdir()
        saved(tmp_path / "train", np.concatenate((half, half), axis=1))
    else:
        for folder in ("trainA", "trainB"):
            (tmp_path / folder).mkdir()
            saved(tmp_path / folder, half)
    pairs = dataset(tmp_path, "aligned", preprocess="crop", no_flip=False)
    random.seed(0)
    samples = [pairs[0] for _ in range(20)]
    assert all(torch.equal(s["A"], s["B"]) for s in samples)
    assert len({s["A"].numpy().tobytes() for s in samples}) > 10


@pytest.mark.parametrize("mode", ["aligned", "unaligned"])
def test_grey_networks_get_one_channel_on_the_right_side(tmp_path, mode):
    write(tmp_path / "trainA" / "a.png", RED)
    write(tmp_path / "trainB" / "a.png", BLUE)
    for direction, shapes in (("AtoB", (1, 3)), ("BtoA", (3, 1))):
        sample = dataset(tmp_path, mode, input_nc=1, output_nc=3, direction=direction)[0]
        assert (len(sample["A"]), len(sample["B"])) == shapes


def test_partners_of_different_size(tmp_path):
    path_A = write(tmp_path / "trainA" / "a.png", RED, width=16, height=12)
    path_B = write(tmp_path / "trainB" / "a.png", BLUE, width=32, height=24)
    for preprocess in ("resize_and_crop", "scale_width", "scale_width_and_crop"):
        sample = dataset(tmp_path, "aligned", preprocess=preprocess)[0]
        assert sample["A"].shape == sample["B"].shape
    for preprocess in ("crop", "none"):
        with pytest.raises(UserError) as error:
            dataset(tmp_path, "aligned", preprocess=preprocess)[0]
        message = str(error.value)
        assert f"{path_A} is 16x12" in message and f"{path_B} is 32x24" in message
        assert f"--preprocess {preprocess}" in message


# --- unaligned, single, colorization, template


def unpaired(tmp_path, a=2, b=5):
    for i in range(a):
        write(tmp_path / "trainA" / f"{i}.png", (i, 0, 0))
    for i in range(b):
        write(tmp_path / "trainB" / f"{i}.png", (0, 0, i))
    return tmp_path


def test_unaligned_goes_through_the_larger_set(tmp_path):
    samples = dataset(unpaired(tmp_path), "unaligned")
    assert len(samples) == 5
    numbers = [
        (colour_of(s["A"])[0], colour_of(s["B"])[2]) for s in map(samples.__getitem__, range(5))
    ]
    assert numbers == [(0, 0), (1, 1), (0, 2), (1, 3), (0, 4)]  # serial_batches


def test_unaligned_draws_a_random_partner(tmp_path):
    samples = dataset(unpaired(tmp_path), "unaligned", serial_batches=False)
    random.seed(0)
    partners = {colour_of(samples[0]["B"])[2] for _ in range(100)}
    assert partners == {0, 1, 2, 3, 4}


def test_unaligned_limits_both_sets(tmp_path):
    samples = dataset(unpaired(tmp_path), "unaligned", max_dataset_size=1, serial_batches=False)
    assert len(samples) == 1 and len(samples.B_paths) == 1


def test_single_reads_dataroot_itself(tmp_path):
    path = write(tmp_path / "a.png", RED)
    sample = dataset(tmp_path, "single", phase="test")[0]
    assert set(sample) == {"A", "A_paths"} and sample["A_paths"] == str(path)
    assert colour_of(sample["A"]) == RED


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_single_gives_what_the_generator_reads(tmp_path, direction):
    write(tmp_path / "a.png", RED)
    samples = dataset(tmp_path, "single", input_nc=1, output_nc=3, direction=direction)
    assert samples[0]["A"].shape == (1, 8, 8)


def test_datasets_say_which_images_they_provide(tmp_path):
    write(tmp_path / "train" / "a.png", RED, BLUE)
    write(tmp_path / "trainA" / "a.png", RED)
    write(tmp_path / "trainB" / "a.png", RED)
    for mode in ("aligned", "unaligned", "single", "colorization", "template"):
        samples = dataset(tmp_path, mode, hole_size=0.5)
        assert samples.provides == tuple(sorted({"A", "B"} & samples[0].keys()))


def test_colorization_equals_scikit_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)
    (tmp_path / "train").mkdir()
    path = saved(tmp_path / "train", pixels)
    sample = dataset(tmp_path, "colorization", input_nc=1, output_nc=2)[0]
    lab = color.rgb2lab(pixels).transpose(2, 0, 1)
    np.testing.assert_allclose(sample["A"].numpy(), lab[:1] / 50 - 1, atol=1e-5)
    np.testing.assert_allclose(sample["B"].numpy(), lab[1:] / 110, atol=1e-5)
    assert sample["A"].dtype == torch.float32 and sample["A_paths"] == sample["B_paths"] == path


def test_colorization_sets_the_channels():
    parser = ArgumentParser()
    for name, value in (("--input_nc", 3), ("--output_nc", 3), ("--direction", "BtoA")):
        parser.add_argument(name, default=value)
    opt = data.get_option_setter("colorization")(parser, True).parse_args([])
    assert (opt.input_nc, opt.output_nc, opt.direction) == (1, 2, "AtoB")


@pytest.mark.parametrize(
    "input_nc, output_nc, direction, fits",
    [(1, 2, "AtoB", True), (2, 1, "BtoA", True), (1, 2, "BtoA", False), (3, 3, "AtoB", False)],
)
def test_colorization_with_another_model_has_one_channel_in_a(input_nc, output_nc, direction, fits):
    numbers = dict(input_nc=input_nc, output_nc=output_nc, direction=direction)
    messages = complaints("colorization", **numbers)
    assert len(messages) == (not fits)
    for message in messages:
        assert f"--input_nc {input_nc} --output_nc {output_nc} --direction {direction}" in message
    assert not complaints("colorization", model="colorization", **numbers)  # it says so itself


def test_template_works_as_it_stands(tmp_path):
    write(tmp_path / "train" / "a.png", RED, width=20, height=20)
    parser = data.get_option_setter("template")(ArgumentParser(), True)
    assert parser.parse_args([]).hole_size == 0.25
    sample = dataset(tmp_path, "template", hole_size=0.5)[0]
    assert colour_of(sample["B"]) == RED
    assert (sample["A"] != sample["B"]).any(dim=0).sum() == 10 * 10
    grey = dataset(tmp_path, "template", hole_size=0.5, input_nc=1, output_nc=1)[0]
    assert len(grey["A"]) == len(grey["B"]) == 1


@pytest.mark.parametrize(
    "changes, words",
    [
        ({}, []),
        (dict(input_nc=1, output_nc=1), []),
        (dict(input_nc=1), ["--input_nc 1 and --output_nc 3"]),
        (dict(input_nc=2, output_nc=2), []),
        (dict(hole_size=1.5), ["--hole_size 1.5"]),
        (dict(input_nc=2, hole_size=0), ["--input_nc 2 and --output_nc 3 differ", "--hole_size 0"]),
    ],
)
def test_template_names_all_bad_options(changes, words):
    messages = complaints("template", **{"hole_size": 0.25, **changes})
    assert len(messages) == len(words)
    assert all(word in message for word, message in zip(words, messages, strict=True))


# --- finding datasets

PLUGIN = """
import random
from data.base_dataset import BaseDataset, get_params, get_transform
from data.image_folder import make_dataset
from PIL import Image


class MyOwnDataset(BaseDataset):
    @staticmethod
    def modify_commandline_options(parser, is_train):
        parser.add_argument("--sharpness", type=float, default=1.0)
        parser.set_defaults(max_dataset_size=2)
        return parser

    def __init__(self, opt):
        BaseDataset.__init__(self, opt)
        self.image_paths = sorted(make_dataset(self.root, opt.max_dataset_size))
        self.transform = get_transform(opt)

    def __getitem__(self, index):
        path = self.image_paths[index]
        image = Image.open(path).convert("RGB")
        params = get_params(self.opt, image.size)
        data_A = get_transform(self.opt, params, grayscale=True)(image)
        return {"data_A": data_A, "data_B": self.transform(image), "path": path}

    def __len__(self):
        return len(self.image_paths)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A function that drops a file beside ours."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.setattr(data, "__path__", [*data.__path__, str(folder)])
    return lambda name, text: (folder / f"{name}.py").write_text(text)


def test_a_file_written_to_the_original_contract_runs(plugin, tmp_path):
    plugin("my_own_dataset", PLUGIN)
    for i in range(3):
        write(tmp_path / "images" / f"{i}.png", (i, i, i))
    parser = ArgumentParser()
    parser.add_argument("--max_dataset_size", type=int)
    added = vars(data.get_option_setter("my_own")(parser, True).parse_args([]))
    assert added == {"sharpness": 1.0, "max_dataset_size": 2}
    loader = data.create_dataset(options(tmp_path / "images", dataset_mode="my_own", **added))
    assert len(loader) == 2
    batches = list(loader)
    assert [colour_of(b["data_B"][0])[0] for b in batches] == [0, 1]
    assert batches[1]["path"] == [str(tmp_path / "images" / "1.png")]
    assert batches[0]["data_A"].shape == (1, 1, 8, 8)


def test_unknown_mode_lists_the_modes_and_the_likely_one():
    for given in (
        "unaligend",
        "Unaligned",
        "un-aligned",
        "../unaligned",
        "os.unaligned",
        "base",
        "",
    ):
        with pytest.raises(UserError) as error:
            data.get_option_setter(given)
        message = str(error.value)
        assert f"--dataset_mode {given}" in message
        assert "aligned, colorization, single, template, unaligned" in message
    with pytest.raises(UserError, match=r"(?i)did you mean unaligned\?"):
        data.find_dataset_using_name("unaligend")


def test_a_file_without_its_class_names_the_class(plugin):
    plugin("half_done_dataset", "class HalfDone:\n    pass\n")
    with pytest.raises(UserError, match="half_done_dataset.py must define a class HalfDoneDataset"):
        data.find_dataset_using_name("half_done")


def test_a_file_with_an_error_of_its_own_shows_it(plugin):
    plugin("broken_dataset", "import a_module_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        data.find_dataset_using_name("broken")


# --- mistakes: each names the thing and the remedy


def only_trainA(root):
    write(root / "trainA" / "a.png", RED)
    return root


def nothing_but_text(root):
    (root / "train").mkdir()
    (root / "train" / "readme.txt").touch()
    return root


def partner_missing(root):
    for i in range(14):
        write(root / "trainA" / f"{i:02}.png", RED)
    write(root / "trainB" / "00.png", RED)
    write(root / "trainB" / "99.png", RED)
    return root


def nothing_pairs(root):
    write(root / "trainA" / "horse.png", RED)
    write(root / "trainB" / "zebra.png", RED)
    return root


def one_name_twice(root):
    write(root / "trainA" / "a.png", RED)
    write(root / "trainA" / "a.jpg", RED)
    write(root / "trainB" / "a.png", RED)
    return root


def side_by_side(root):
    write(root / "train" / "a.png", RED, BLUE)
    return root


def too_narrow(root):
    write(root / "train" / "a.png", RED, width=1)
    return root


def a_file(root):
    (root / "photo.png").touch()
    return root / "photo.png"


MISTAKES = [
    ("aligned", lambda root: root / "nowhere", ["no folder", "nowhere", "Check --dataroot"]),
    ("aligned", lambda root: root, ["trainA/ with trainB/", "A/train/", "holds nothing"]),
    (
        "aligned",
        only_trainA,
        ["trainA/ with trainB/", "train/ with A and B side by side", "--dataroot, --phase"],
    ),
    ("aligned", nothing_but_text, ["train has no image", "holds readme.txt", ".jpeg"]),
    (
        "aligned",
        partner_missing,
        ["13 only", "01.png, 02.png", "and 3 more", "1 only", "99"],
    ),
    ("aligned", nothing_pairs, ["horse", "zebra", "--dataset_mode unaligned"]),
    ("aligned", one_name_twice, ["a.jpg and ", "a.png have one name", "rename or remove"]),
    ("aligned", too_narrow, ["a.png is 1x8", "too narrow"]),
    ("aligned", a_file, ["photo.png is a file", "--dataroot"]),
    ("unaligned", lambda root: root / "nowhere", ["no folder", "nowhere", "Check --dataroot"]),
    ("unaligned", side_by_side, ["trainA/ with trainB/", "holds train.", "--dataset_mode aligned"]),
    ("unaligned", only_trainA, ["trainA/ with trainB/", "holds trainA", "--phase"]),
    ("single", lambda root: root / "nowhere", ["no folder", "nowhere"]),
    ("single", lambda root: root, ["has no image", "holds nothing", ".webp"]),
    ("single", a_file, ["photo.png", "known format"]),
    ("single", lambda root: root / "a" / "b", ["no folder", "a/b", "holds nothing"]),
    ("colorization", only_trainA, ["no folder", "holds trainA", "--phase"]),
]


@pytest.mark.parametrize("mode, make, parts", MISTAKES)
def test_mistakes_name_the_thing_and_the_remedy(tmp_path, mode, make, parts):
    with pytest.raises(UserError) as error:
        dataset(make(tmp_path), mode)[0]
    missing = [part for part in parts if part not in str(error.value)]
    assert not missing, str(error.value)


def test_results_and_checkpoints_in_a_data_folder_are_no_data(tmp_path, capsys):
    write_images(tmp_path / "train", 3, width=64)
    for folder, mark in {"n": "train_opt.txt", "r/test_latest": "test_opt.txt"}.items():
        write_images(tmp_path / "train" / folder / "images", 2)
        (tmp_path / "train" / folder / mark).touch()
    found = make_dataset(str(tmp_path / "train"))
    assert [os.path.basename(path) for path in found] == ["1.png", "2.png", "3.png"]
    assert capsys.readouterr().out.count("left out, as results or checkpoints: ") == 2
    # what is named is meant
    assert len(make_dataset(str(tmp_path / "train/n"))) == 2
    assert len(make_dataset(str(tmp_path / "train/r/test_latest/images"))) == 2
