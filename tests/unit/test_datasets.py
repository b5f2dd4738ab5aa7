"""Finding datasets, folders and images; what each dataset returns; what each mistake says."""

import os
import random
import re
import subprocess
import sys
from argparse import ArgumentParser, Namespace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import color
from torchrun import ROOT

import data
from data.image_folder import IMG_EXTENSIONS, default_loader, load_image, make_dataset
from util.errors import UserError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def options(root, **changes):
    opt = dict(
        dataroot=str(root),
        phase="train",
        dataset_mode="aligned",
        model="pix2pix",
        direction="AtoB",
        input_nc=3,
        output_nc=3,
        serial_batches=True,
        num_threads=0,
        batch_size=1,
        load_size=8,
        crop_size=8,
        max_dataset_size=float("inf"),
        preprocess="none",
        no_flip=True,
        seed=0,
        device=torch.device("cpu"),
        isTrain=True,
        checkpoints_dir=os.path.join(root, "checkpoints"),
    )
    return Namespace(**{**opt, **changes})


def dataset(root, mode, **changes):
    opt = options(root, dataset_mode=mode, **changes)
    return data.find_dataset_using_name(mode)(opt)


def complaints(mode, **changes):
    """What a dataset says about options."""
    opt = options(".", dataset_mode=mode, **changes)
    return list(data.find_dataset_using_name(mode).check_options(opt))


def write(path, *colours, width=8, height=8):
    """An image of vertical stripes, one for each colour, each `width` wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width * len(colours), height))
    for i, colour in enumerate(colours):
        image.paste(colour, (i * width, 0, (i + 1) * width, height))
    image.save(path)
    return path


def colour_of(tensor):
    """The (r, g, b) of a tensor of one colour."""
    pixels = ((tensor + 1) * 127.5).round().int().flatten(1)
    assert (pixels == pixels[:, :1]).all()
    return tuple(pixels[:, 0].tolist())


def relative(paths, root):
    return [os.path.relpath(path, root) for path in paths]


# --- finding files


def test_make_dataset_finds_all_suffixes_subfolders_and_links(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    names = ["b.JPG", "a.png", "sub/deep/c.Tiff", "d.WEBP", "e.bmp", "f.PPM", "g.jpeg"]
    for path in [root / name for name in names] + [elsewhere / "z.tif"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for other in ("notes.txt", "._a.png", "png"):
        (root / other).touch()
    (root / "linked").symlink_to(elsewhere, target_is_directory=True)
    (root / "h.png").symlink_to(elsewhere / "z.tif")
    found = relative(make_dataset(str(root)), root)
    assert found == sorted([*names, "linked/z.tif", "h.png"])
    assert relative(make_dataset(str(root), 2), root) == ["a.png", "b.JPG"]


def test_make_dataset_ends_in_spite_of_symbolic_loops(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name / "x.png", RED)
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a", target_is_directory=True)
    found = relative(make_dataset(str(tmp_path / "a")), tmp_path)
    assert {"a/x.png", "a/to_b/x.png", "a/again/b/x.png"} <= set(found) and len(found) < 10


def test_missing_folder_lists_what_is_there(tmp_path):
    (tmp_path / "facades").mkdir()
    (tmp_path / "maps").mkdir()
    with pytest.raises(UserError) as error:
        make_dataset(str(tmp_path / "facade" / "train"))
    message = str(error.value)
    assert f"no folder {tmp_path}/facade/train" in message
    assert f"{tmp_path} holds facades, maps" in message and "--dataroot" in message


# --- reading files


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_exif_orientation_is_honoured(tmp_path, suffix):
    stored = Image.new("RGB", (16, 32), RED)
    stored.paste(BLUE, (0, 16, 16, 32))  # red over blue
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: blue left of red
    stored.save(tmp_path / f"a.{suffix}", exif=exif)
    image = load_image(str(tmp_path / f"a.{suffix}"))
    assert image.size == (32, 16)
    r, _, b = image.getpixel((4, 8))
    assert b > 200 > 55 > r
    r, _, b = image.getpixel((28, 8))
    assert r > 200 > 55 > b


def test_damaged_exif_does_not_matter(tmp_path):
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png", exif=b"Exif\0\0garbage here")
    assert load_image(str(tmp_path / "a.png")).getpixel((0, 0)) == RED


def saved(tmp_path, array, mode=None, name="a.png"):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(tmp_path / name)
    return str(tmp_path / name)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    path = saved(tmp_path, np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16))
    assert [p[0] for p in np.asarray(load_image(path))[0].tolist()] == [0, 1, 128, 255]
    assert np.asarray(load_image(path, "L"))[0].tolist() == [0, 1, 128, 255]


def test_eight_bit_grey_in_32_bits_is_left_as_it_is(tmp_path):
    for values, expected in (([0, 7, 255], [0, 7, 255]), ([0, 257, 65535], [0, 1, 255])):
        path = saved(tmp_path, np.array([values], dtype=np.int32), name="a.tif")
        with Image.open(path) as image:
            assert image.mode == "I"
        assert np.asarray(load_image(path, "L"))[0].tolist() == expected
    dark = saved(tmp_path, np.array([[0, 100, 255]], dtype=np.uint16), name="16.tif")
    assert np.asarray(load_image(dark, "L"))[0].tolist() == [0, 0, 1]


def test_names_that_other_peoples_files_import(tmp_path):
    image = default_loader(str(write(tmp_path / "a.png", RED)))
    assert image.mode == "RGB" and image.getpixel((0, 0)) == RED
    assert {".jpg", ".JPG", ".png", ".PNG", ".tiff", ".webp"} < set(IMG_EXTENSIONS)
    assert "b.JPEG".endswith(tuple(IMG_EXTENSIONS)) and not "b.txt".endswith(tuple(IMG_EXTENSIONS))


def test_one_bit_palette_cmyk_and_transparent_images(tmp_path):
    white_black = np.array([[255, 0]], dtype=np.uint8)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image = load_image(saved(tmp_path, white_black, mode))
        assert image.mode == "RGB"
        assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]
    half_seen = np.array([[[200, 100, 50, 10]]], dtype=np.uint8)
    assert load_image(saved(tmp_path, half_seen)).getpixel((0, 0)) == (200, 100, 50)
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    cmyk.save(tmp_path / "c.tif")
    assert load_image(str(tmp_path / "c.tif")).getpixel((0, 0)) == RED


def truncated(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def huge(path):
    Image.new("1", (200, 200)).save(path)


@pytest.mark.parametrize(
    "make, why",
    [
        (lambda path: path.write_text("hello"), "no image file of a known format"),
        (lambda path: path.touch(), "no image file of a known format"),
        (truncated, "truncated"),
        (huge, "exceeds limit of 20000 pixels"),
        (lambda path: path.symlink_to("nowhere.png"), "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
    ],
)
def test_unreadable_images_name_the_file_and_the_reason(tmp_path, monkeypatch, make, why):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10000)  # PIL refuses twice that
    path = tmp_path / "bad.png"
    make(path)
    with pytest.raises(UserError, match=f"cannot read the image {re.escape(str(path))}.*{why}"):
        load_image(str(path))


def test_large_images_do_not_warn_and_nobody_elses_warnings_are_touched(tmp_path):
    """PIL warns of images over its limit, and refuses those over twice that."""
    Image.new("1", (150, 100)).save(tmp_path / "a.png")
    code = """
import sys, warnings
import numpy, PIL.Image, torchvision.transforms
before = list(warnings.filters)
from data.image_folder import load_image
assert warnings.filters == before, warnings.filters
warnings.simplefilter("error")
before = list(warnings.filters)
PIL.Image.MAX_IMAGE_PIXELS = 10000
assert load_image(sys.argv[1]).size == (150, 100)
assert warnings.filters == before
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


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
    assert not complaints("single", input_nc=1, output_nc=2, direction=direction)
    (message,) = complaints("single", input_nc=2, output_nc=1, direction=direction)
    assert "--input_nc 2" in message


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
        (dict(input_nc=2, output_nc=2), ["--input_nc 2", "--output_nc 2"]),
        (dict(hole_size=1.5), ["--hole_size 1.5"]),
        (dict(input_nc=2, hole_size=0), ["--input_nc 2", "differ", "--hole_size 0"]),
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
    ("single", a_file, ["photo.png is a file", "--dataroot"]),
    ("single", lambda root: root / "a" / "b", ["no folder", "a/b", "holds nothing"]),
    ("colorization", only_trainA, ["no folder", "holds trainA", "--phase"]),
]


@pytest.mark.parametrize("mode, make, parts", MISTAKES)
def test_mistakes_name_the_thing_and_the_remedy(tmp_path, mode, make, parts):
    with pytest.raises(UserError) as error:
        dataset(make(tmp_path), mode)[0]
    missing = [part for part in parts if part not in str(error.value)]
    assert not missing, str(error.value)
