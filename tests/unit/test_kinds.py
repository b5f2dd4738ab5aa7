"""Files of every kind: what the networks see of them, and what test.py writes."""

from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from small_datasets import options

import data
import test
import train
from data import image_io, kinds
from data.image_io import read_header, read_image, write_image
from data.image_reader import ImageReader
from data.outputs import Outputs
from scripts import check_dataset
from util.errors import UserError

tifffile = pytest.importorskip("tifffile", reason="pip install tifffile")
needs_codecs = pytest.mark.skipif(not find_spec("imagecodecs"), reason="pip install imagecodecs")

TYPES = "u1 u2 u4 i1 i2 i4 f2 f4 f8".split()
CHANNELS = (1, 2, 3, 4, 5, 13)
TIFFS = {
    "strips": {},
    "tiles": {"tile": (16, 16)},
    "planar": {"planarconfig": "separate"},
    "big": {"bigtiff": True},
    "LZW": {"compression": "lzw"},
    "deflate": {"compression": "zlib"},
    "big-endian": {"byteorder": ">"},
}


def noise(dtype, channels, height=21, width=34, seed=0):
    """(height, width, channels) of all values that a type has, or about ±1000."""
    draw = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return draw.normal(0, 300, (height, width, channels)).astype(dtype)
    limits = np.iinfo(dtype)
    return draw.integers(limits.min, limits.max, (height, width, channels), dtype, endpoint=True)


def write_tiff(path, array, planarconfig="contig", **how):
    if array.shape[2] == 1:
        array, planarconfig = array[..., 0], None
    elif planarconfig == "separate":
        array = np.moveaxis(array, -1, 0)
    colour = {"photometric": "minisblack", "metadata": None}
    tifffile.imwrite(path, np.ascontiguousarray(array), planarconfig=planarconfig, **colour, **how)


def pixels(path):
    array = np.asarray(read_image(str(path)))
    return array[..., None] if array.ndim == 2 else array


def assert_equal(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert np.array_equal(found, expected)


# --- the reader and the writer


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", [
    pytest.param(name, marks=needs_codecs if name == "LZW" else ()) for name in TIFFS
])  # fmt: skip
def test_tiffs_are_read_exactly(tmp_path, dtype, layout):
    for channels in CHANNELS[layout == "planar" :]:
        array = noise(dtype, channels)
        write_tiff(tmp_path / "a.tif", array, **TIFFS[layout])
        assert_equal(pixels(tmp_path / "a.tif"), array)
        header = read_header(str(tmp_path / "a.tif"))
        assert header == ((34, 21), channels, array.dtype, False)


@pytest.mark.parametrize("dtype", [*TYPES, "u8", "i8", ">i2", ">f4"])
def test_arrays_are_read_exactly(tmp_path, dtype):
    for channels in CHANNELS:
        array = noise(np.dtype(dtype).newbyteorder("="), channels)
        np.save(tmp_path / "a.npy", array.astype(dtype))
        np.savez(tmp_path / "a.npz", array.astype(dtype))
        for name in ("a.npy", "a.npz"):
            assert_equal(pixels(tmp_path / name), array)
    np.save(tmp_path / "flat.npy", array[..., 0])
    assert_equal(pixels(tmp_path / "flat.npy"), array[..., :1])
    np.save(tmp_path / "mask.npy", array[..., 0] > 0)
    assert_equal(pixels(tmp_path / "mask.npy"), (array[..., :1] > 0) * np.uint8(255))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("suffix", [".tif", ".npy", ".png", ".webp"])
def test_what_is_written_is_what_was_given(tmp_path, dtype, suffix):
    for channels in CHANNELS:
        array = noise(dtype, channels)
        path = tmp_path / f"a{suffix}"
        if image_io.can_hold(suffix, array.dtype, channels):
            write_image(path, array)
            assert_equal(pixels(path), array)
            if suffix == ".tif":  # as others read it
                assert_equal(tifffile.imread(path).reshape(array.shape), array)
        else:
            assert suffix in (".png", ".webp") and (dtype != "u1" or channels != 3)


def test_16_bit_png_is_as_others_write_and_read_it(tmp_path):
    codecs = pytest.importorskip("imagecodecs")
    for channels in (1, 2, 3, 4):
        array = noise("u2", channels)
        (tmp_path / "a.png").write_bytes(codecs.png_encode(array.squeeze()))
        assert_equal(pixels(tmp_path / "a.png"), array)
        assert read_header(str(tmp_path / "a.png")).alpha == (channels in (2, 4))
        write_image(tmp_path / "b.png", array)
        found = codecs.png_decode((tmp_path / "b.png").read_bytes())
        assert_equal(found.reshape(array.shape), array)


def test_each_page_is_an_image_and_thumbnails_are_none(tmp_path):
    stack = noise("u2", 3, seed=3)  # three pages of one channel
    with tifffile.TiffWriter(tmp_path / "stack.tif") as tiff:
        for page in range(3):
            tiff.write(stack[..., page], photometric="minisblack", metadata=None)
            small = stack[::2, ::2, page].copy()
            tiff.write(small, subfiletype=1, photometric="minisblack", metadata=None)
    paths = image_io.pages(str(tmp_path / "stack.tif"))
    assert [Path(path).name for path in paths] == ["page_0001", "page_0002", "page_0003"]
    for page, path in enumerate(paths):
        assert_equal(pixels(path), stack[..., page : page + 1])
        assert read_header(path).size == (34, 21)
    np.savez(tmp_path / "several.npz", one=stack, two=stack + 1)
    second = image_io.pages(str(tmp_path / "several.npz"))[1]
    assert_equal(pixels(second), stack + 1)
    np.savez(tmp_path / "alone.npz", stack)
    assert image_io.pages(str(tmp_path / "alone.npz")) == [str(tmp_path / "alone.npz")]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_arrays_is_as_pillow_has_it(tmp_path, orientation):
    array = noise("u1", 1)
    for dtype in ("u1", "f8"):
        tags = [(image_io.ORIENTATION, "H", 1, orientation, True)]
        write_tiff(tmp_path / f"{dtype}.tif", array.astype(dtype), extratags=tags)
    upright = pixels(tmp_path / "u1.tif")  # by Pillow
    assert np.array_equal(pixels(tmp_path / "f8.tif"), upright)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: np.save(path, np.zeros((2, 3, 4, 5))), ["(2, 3, 4, 5)", "height, width"]),
        (lambda path: np.save(path, np.zeros((4, 4), complex)), ["complex128", "float32"]),
        (lambda path: np.save(path, np.array([{}]), allow_pickle=True), ["cannot read"]),
        (lambda path: path.write_bytes(b"\x93NUMPY\1\0"), ["cannot read"]),
        (lambda path: write_tiff(path.with_suffix(".npy"), noise("f4", 1)), ["cannot read"]),
    ],
)
def test_arrays_that_are_no_images_say_why(tmp_path, make, words):
    make(tmp_path / "a.npy")
    with pytest.raises(UserError) as error:
        read_image(str(tmp_path / "a.npy"))
    assert all(word in str(error.value) for word in [str(tmp_path / "a.npy"), *words])


@needs_codecs  # to write it
def test_a_tiff_that_needs_another_library_says_which_and_what_it_is(tmp_path, monkeypatch):
    write_tiff(tmp_path / "a.tif", noise("f8", 5), compression="lzw")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(UserError) as error:
        read_image(str(tmp_path / "a.tif"))
    for word in ("64-bit floating-point", "5 channels", "LZW", "pip install tifffile"):
        assert word in str(error.value)


# --- range


def side_by_value(path, **changes):
    opt = options(path.parent, **changes)
    (image,) = ImageReader(opt, A=opt.input_nc)(str(path))
    return data.transforms.get_transform(opt)(image)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_range_is_mapped_to_minus_one_to_one(tmp_path, dtype):
    array = noise(dtype, 1)
    np.save(tmp_path / "a.npy", array)
    low, high = (-500.0, 700.0) if np.dtype(dtype).kind == "f" else (5.0, float(array.max()) - 9)
    found = side_by_value(tmp_path / "a.npy", input_nc=1, value_range=[low, high], isTrain=False)
    expected = ((array.astype(float) - low) / (high - low) * 2 - 1).clip(-1, 1)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[0].numpy(), expected[..., 0], atol=3e-7)


@pytest.mark.parametrize("dtype, most", [("u1", 255), ("u2", 65535)])
def test_8_and_16_bits_have_their_full_range(tmp_path, dtype, most):
    array = np.arange(256, dtype=dtype).reshape(16, 16, 1) * np.dtype(dtype).type(most // 255)
    np.save(tmp_path / "a.npy", array)
    found = side_by_value(tmp_path / "a.npy", input_nc=1)
    np.testing.assert_allclose(found[0].numpy(), array[..., 0] / (most / 2) - 1, atol=3e-7)


def two_folders(root, A, B=None, suffix=".npy"):
    """A dataset of two folders; `A` and `B` are lists of arrays, upside down for testing."""
    for part in ("train", "test"):
        for side, arrays in (("A", A), ("B", A if B is None else B)):
            (root / f"{part}{side}").mkdir(parents=True, exist_ok=True)
            for number, array in enumerate(arrays):
                path = root / f"{part}{side}" / f"{number}{suffix}"
                array = array if part == "train" else np.ascontiguousarray(array[::-1])
                write_tiff(path, array) if suffix == ".tif" else write_image(path, array)
    return root


UNKNOWN = {
    "int16": (noise("i2", 1) // 32, r"-1024 1018"),
    "int32": (np.array([[[-7], [123456]]], np.int32).repeat(8, 0), r"-7 123456"),
    "float32": (np.linspace(-0.5, 2, 64, dtype="f4").reshape(8, 8, 1), r"-0.5 2"),
    "float16": (np.linspace(-0.5, 2, 64).astype("f2").reshape(8, 8, 1), r"-0.5 2"),
    "float64": (np.linspace(-0.5, 2, 64).reshape(8, 8, 1), r"-0.5 2"),
    "12 bits": (np.arange(64, dtype="u2").reshape(8, 8, 1) * 65, r"0 4095"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_range_that_is_not_known_is_asked_for(tmp_path, name, capsys):
    array, range_ = UNKNOWN[name]
    two_folders(tmp_path, [array], [noise("u1", 1)])
    argv = ["--dataroot", str(tmp_path), "--input_nc", "1", "--output_nc", "1", "--gpu_ids", "-1"]
    with pytest.raises(UserError) as error:
        data.create_dataset(options(tmp_path, dataset_mode="unaligned", input_nc=1, output_nc=1))
    assert f"--value_range_A {range_}" in str(error.value)
    assert "_B" not in str(error.value)
    with pytest.raises(SystemExit) as end:
        check_dataset.main([*argv, "--dataset_mode", "unaligned", "--preprocess", "none"])
    assert end.value.code == 1 and f"--value_range_A {range_}" in capsys.readouterr().out
    given = [float(number) for number in range_.split()]
    opt = options(tmp_path, dataset_mode="unaligned", input_nc=1, output_nc=1, value_range_A=given)
    assert data.create_dataset(opt).kinds["A"].high == given[1]


def test_dark_16_bits_are_taken_if_the_full_range_is_given(tmp_path):
    two_folders(tmp_path, [UNKNOWN["12 bits"][0]])
    opt = options(tmp_path, dataset_mode="unaligned", input_nc=1, output_nc=1)
    opt.value_range = [0.0, 65535.0]
    assert data.create_dataset(opt).kinds["B"].full_range


def test_values_that_are_no_numbers_are_refused(tmp_path):
    array = np.full((8, 8, 1), 0.5, np.float32)
    array[3, 3] = np.nan
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match="a.npy.*NaN"):
        side_by_value(tmp_path / "a.npy", input_nc=1, value_range=[0.0, 1.0])


def test_what_is_clipped_and_what_transparency_hides_is_said(tmp_path, capsys):
    grey_alpha = np.dstack([noise("u1", 1), noise("u1", 1, seed=1)])
    for part in ("trainA", "trainB"):
        (tmp_path / part).mkdir()
    Image.fromarray(grey_alpha, "LA").save(tmp_path / "trainA" / "0.png")
    np.save(tmp_path / "trainB" / "0.npy", np.array([[-2000, 3000]], np.int16))
    opt = options(tmp_path, dataset_mode="unaligned", input_nc=1, output_nc=1)
    opt.value_range_B = [-1000.0, 1000.0]
    loader = data.create_dataset(opt)
    first, second = capsys.readouterr().out.splitlines()
    assert "A:" in first and "transparency" in first
    assert "-2000 to 3000" in second and "-1000 to 1000" in second
    assert {-1, 1} <= set(loader.dataset[0]["B"].flatten().tolist())


# --- channels and size


@pytest.mark.parametrize("channels, asked, fits", [
    (1, 3, True), (3, 1, True), (4, 3, False), (3, 4, False), (2, 1, False), (5, 5, True),
    (13, 13, True), (13, 3, False),
])  # fmt: skip
def test_channels(tmp_path, channels, asked, fits):
    np.save(tmp_path / "a.npy", noise("u2", channels))
    if fits:
        assert len(side_by_value(tmp_path / "a.npy", input_nc=asked)) == asked
    else:
        with pytest.raises(UserError, match=f"a.npy has {channels} ch.*--input_nc {asked}"):
            side_by_value(tmp_path / "a.npy", input_nc=asked)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_transparency_is_a_channel_if_it_is_asked_for(tmp_path, dtype):
    array = noise(dtype, 4)
    write_image(tmp_path / "a.png", array)
    most = np.iinfo(dtype).max
    for asked in (4, 3):
        found = side_by_value(tmp_path / "a.png", input_nc=asked, isTrain=False)
        expected = array[..., :asked].transpose(2, 0, 1) / (most / 2) - 1
        np.testing.assert_allclose(found.numpy(), expected, atol=3e-7)
    assert len(side_by_value(tmp_path / "a.png", input_nc=1)) == 1


@pytest.mark.parametrize("size", [(50, 40), (286, 286), (17, 90)])
def test_floats_are_resized_as_pillow_does(tmp_path, size):
    """Pillow rounds 8-bit images after each of two passes, whose weights add up to 1.25 at most."""
    whole = 96 + noise("u1", 3, 70, 90) // 4  # so that nothing overshoots
    coarse = whole.astype("f4")
    np.save(tmp_path / "a.npy", coarse)
    opt = options(tmp_path, preprocess="resize_and_crop", load_size=size[0])
    opt.value_range = [0.0, 255.0]
    (found,) = ImageReader(opt, A=3)(str(tmp_path / "a.npy"))
    by_pillow = Image.fromarray(whole).resize((size[0], size[0]), Image.Resampling.BICUBIC)
    levels = (found.numpy().transpose(1, 2, 0) + 1) * 127.5
    assert abs(levels - np.asarray(by_pillow)).max() < 0.5 * 1.25 + 0.5
    plane = Image.fromarray(coarse[..., 0]).resize((size[0], size[0]), Image.Resampling.BICUBIC)
    assert abs(levels[..., 0] - np.asarray(plane).clip(0, 255)).max() < 1e-2  # floats, by Pillow


def test_crop_flip_and_cache_take_five_channels(tmp_path):
    two_folders(tmp_path, [noise("i2", 5, seed=s) for s in range(3)], [noise("u1", 3)])
    changes = dict(preprocess="resize_and_crop", load_size=20, crop_size=16, no_flip=False)
    opt = options(tmp_path, dataset_mode="unaligned", input_nc=5, **changes)
    opt.value_range_A = [-32768.0, 32767.0]
    plain = [batch["A"] for batch in data.create_dataset(opt)]
    opt.cache = "ram"
    cached = [batch["A"] for batch in data.create_dataset(opt)]
    assert all(map(torch.equal, plain, cached)) and plain[0].shape == (1, 5, 16, 16)
    big = noise("i2", 5, 8, 30)
    np.save(tmp_path / "wide.npy", big)
    opt.preprocess, opt.cache = "crop", "none"
    (image,) = ImageReader(opt, A=5)(str(tmp_path / "wide.npy"))
    params = {"crop_pos": (7, 0), "flip": True}
    cropped = data.transforms.get_transform(opt, params)(image)
    expected = (big[:, 7:23][:, ::-1].astype(float) + 32768) / 65535 * 2 - 1
    np.testing.assert_allclose(cropped[:, :8].numpy(), expected.transpose(2, 0, 1), atol=1e-6)
    assert (cropped[:, 8:] == -1).all()  # black


# --- outputs


def test_kinds_are_saved_with_a_run_and_damage_is_told(tmp_path):
    found = {"A": kinds.Kind("int16", -1000.0, 1000.0, ".npy", (-0.5, 0.25)), "B": kinds.Kind()}
    kinds.save_kinds(found, tmp_path)
    assert kinds.saved_kinds(tmp_path) == found
    assert kinds.saved_kinds(tmp_path / "nowhere") == {}
    for broken in ("", "[1]", '{"A": {}}', '{"A": {"dtype": "O", "shown": [0, 1]}}'):
        (tmp_path / kinds.NAME).write_text(broken)
        with pytest.raises(UserError, match=kinds.NAME):
            kinds.saved_kinds(tmp_path)


INT16 = kinds.Kind("int16", -1000.0, 1000.0, ".tif")
FLOAT = kinds.Kind("float32", 0.0, 2.0, ".npy")
PNG16 = kinds.Kind("uint16", 0.0, 65535.0, ".png")


@pytest.mark.parametrize("kind, channels, asked, suffix, dtype", [
    (kinds.Kind(suffix=".jpg"), 3, None, ".png", "uint8"),
    (kinds.Kind(suffix=".tif"), 1, None, ".png", "uint8"),
    (kinds.Kind(suffix=".png"), 4, None, ".png", "uint8"),
    (kinds.Kind(), 4, None, ".npy", "uint8"),  # nobody says that it is transparency
    (kinds.Kind(suffix=".tif"), 5, None, ".tif", "uint8"),
    (PNG16, 3, None, ".png", "uint16"), (INT16, 1, None, ".tif", "int16"),
    (FLOAT, 1, None, ".npy", "float32"),
    (FLOAT, 1, "tif", ".tif", "float32"), (INT16, 1, "npy", ".npy", "int16"),
    (INT16, 3, "jpg", ".jpg", "uint8"), (INT16, 3, "png", ".png", "uint16"),
    (kinds.Kind(suffix=".png"), 3, "webp", ".webp", "uint8"),
])  # fmt: skip
def test_the_format_of_results(kind, channels, asked, suffix, dtype):
    opt = Namespace(format=asked, direction="AtoB", dataroot="x", phase="test")
    found = Outputs(opt, {}, {"B": kind}).format("fake_B", channels)
    assert (found.suffix, found.kind.dtype) == (suffix, dtype)
    ends = found.encode(torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2).expand(1, channels, 1, 2))
    low, high = (kind.low, kind.high) if dtype == kind.dtype else (0, np.iinfo(dtype).max)
    assert ends.shape == (1, 1, 2, channels)
    assert ends[0, 0, :, 0].tolist() == [low, high]


def test_a_range_beyond_the_type_does_not_wrap_around():
    ends = torch.tensor([-1.0, 0.0, 1.0])
    for dtype, low, high in (("int16", -4e4, 4e4), ("uint8", -10, 300), ("int64", -1e19, 1e19)):
        least, middle, most = kinds.Kind(dtype, low, high).values(ends).tolist()
        limits = np.iinfo(dtype)
        assert least == limits.min and middle == (low + high) / 2
        assert limits.max - 1024 <= most <= limits.max


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", TYPES)
def test_values_of_images_on_a_gpu(dtype):
    images = torch.linspace(-1, 1, 99)
    kind = kinds.Kind(np.dtype(dtype).name, 1.0, 100.0)
    assert torch.equal(kind.values(images.cuda()).cpu(), kind.values(images))


def test_a_format_that_cannot_hold_the_channels_is_refused():
    opt = Namespace(format="jpg", direction="AtoB", dataroot="x", phase="test")
    with pytest.raises(UserError, match="--format jpg.*5 channels.*npy"):
        Outputs(opt, {}, {}).format("fake_B", 5)


@pytest.mark.parametrize("direction, suffix, expected", [
    ("AtoB", "", "AB"), ("BtoA", "", "BA"), ("AtoB", "_B", "BA"), ("BtoA", "_B", "AB"),
])  # fmt: skip
def test_which_side_a_visual_is_of(direction, suffix, expected):
    opt = Namespace(direction=direction, model_suffix=suffix)
    assert "".join(kinds.side_of(name, opt) for name in ("real", "fake")) == expected


# --- the programs

PROGRAMS = {  # dtype, channels, suffix, options
    "uint8 rgb": ("u1", 3, ".png", []),
    "uint8 grey and alpha": ("u1", 2, ".png", []),
    "uint16 rgb": ("u2", 3, ".png", []),
    "uint16, 4 bands": ("u2", 4, ".tif", []),
    "uint8, 13 bands": ("u1", 13, ".npy", []),
    "int16": ("i2", 1, ".tif", ["--value_range", "-32768", "32767"]),
    "int32": ("i4", 1, ".tif", ["--value_range", "-3e9", "3e9"]),
    "float32, 5 bands": ("f4", 5, ".tif", ["--value_range", "-2000", "2000"]),
    "float64": ("f8", 1, ".npy", ["--value_range", "-2000", "2000"]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_train_check_and_test_take_it_and_give_it_back(here, tmp_path, name):
    dtype, channels, suffix, more = PROGRAMS[name]
    arrays = [noise(dtype, channels, 32, 32, seed=seed) for seed in range(2)]
    root = two_folders(tmp_path / "d", arrays, suffix=suffix)
    nc = ["--input_nc", str(channels), "--output_nc", str(channels)]
    argv = ["--dataroot", str(root), "--gpu_ids", "-1", "--num_threads", "0"]
    train_argv = [*argv, *nc, *more, "--model", "pix2pix"]
    check_dataset.main([*train_argv, "--preprocess", "none", "--netG", "resnet_6blocks"])
    one = ["--n_epochs", "1", "--n_epochs_decay", "0"]
    train.main([*train_argv, *TINY, *one, "--name", "n", "--display_freq", "1"])
    assert Image.open("checkpoints/n/web/images/epoch001_fake_B.png").mode == "RGB"
    test.main([*argv, "--name", "n", "--model", "pix2pix", "--preprocess", "none"])
    folder = Path("results/n/test_latest/images")
    for number, array in enumerate(arrays):
        real = pixels(folder / f"{number}_real_A{suffix}")
        fake = pixels(folder / f"{number}_fake_B{suffix}")
        assert fake.dtype == array.dtype and fake.shape == array.shape
        exact = 0 if np.dtype(dtype).itemsize < 4 else 1e-7 * (2e3 if "f" in dtype else 6e9)
        assert abs(real.astype(float) - array[::-1]).max() <= exact
    out = ["--dataroot", str(root / "testA"), "--name", "n", "--only_output"]
    test.main([*out, "--preprocess", "none", "--gpu_ids", "-1"])
    alone = pixels(f"results/n/test_latest/0{suffix}")
    assert alone.dtype == arrays[0].dtype and alone.shape == arrays[0].shape


SHIFT = '''
"""Adds a constant, which it learns."""
import torch
from models.template_model import TemplateModel

class ShiftModel(TemplateModel):
    def __init__(self, opt):
        super().__init__(opt)
        self.netG = torch.nn.Conv2d(1, 1, 1)
        if self.isTrain:
            self.optimizers = []
            self.optimizer = self.add_adam(self.netG)
'''


ODD = '''
"""Shows what is no image."""
import torch
from models.template_model import TemplateModel

class OddModel(TemplateModel):
    def __init__(self, opt):
        super().__init__(opt)
        self.visual_names += ["five", "deep", "flat", "text", "none_of_it", "array"]

    def compute_visuals(self):
        self.five, self.deep = torch.zeros(1, 5, 8, 8), torch.zeros(1, 3, 4, 8, 8)
        self.flat, self.text, self.none_of_it = torch.zeros(7), "hello", torch.zeros(1, 3, 0, 8)
        self.array = self.output[0].movedim(0, -1).detach().numpy() * 127 + 127
'''


def test_no_visual_ends_a_run(here, tmp_path, monkeypatch, capsys):
    import models

    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "odd_model.py").write_text(ODD)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path / "plugins")])
    root = two_folders(tmp_path / "d", [noise("u1", 3, 32, 32)], suffix=".png")
    argv = ["--dataroot", str(root), "--name", "n", "--model", "odd"]
    one = ["--n_epochs", "2", "--n_epochs_decay", "0", "--display_freq", "1"]
    train.main([*argv, *TINY, *one])
    shown = {p.stem for p in Path("checkpoints/n/web/images").glob("epoch001_*")}
    assert shown >= {f"epoch001_{name}" for name in ("output", "five", "array")}
    said = capsys.readouterr().out
    for name in ("deep", "flat", "text", "none_of_it"):
        assert said.count(f"{name} is not shown") == 1
    test.main([*argv, "--gpu_ids", "-1", "--num_threads", "0"])
    written = {p.name for p in Path("results/n/test_latest/images").iterdir()}
    visuals = ("data_A.png", "data_B.png", "output.png", "five.npy", "array.png")
    assert written == {f"0_{name}" for name in visuals}


def test_a_shift_of_a_ct_slice_comes_back_in_hounsfield_units(here, tmp_path, monkeypatch):
    """int16 from −1000 (air) on; the answer is 100 more, within 1 % of the range."""
    slices = [(noise("i2", 1, 32, 32, seed=s) // 40).clip(-1000, 800) for s in range(10)]
    root = two_folders(tmp_path / "d", slices, [a + np.int16(100) for a in slices], ".tif")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "shift_model.py").write_text(SHIFT)
    import models

    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path / "plugins")])
    argv = ["--dataroot", str(root), "--name", "ct", "--model", "shift", "--gpu_ids", "-1"]
    argv += ["--input_nc", "1", "--output_nc", "1", "--num_threads", "0", "--preprocess", "none"]
    schedule = ["--lr", "0.02", "--n_epochs", "10", "--n_epochs_decay", "20", "--no_html"]
    train.main([*argv, *schedule, "--value_range", "-1000", "1000", "--save_epoch_freq", "99"])
    test.main(argv)
    for number, expected in enumerate(slices):
        found = tifffile.imread(f"results/ct/test_latest/images/{number}_output.tif")
        assert found.dtype == np.int16
        assert abs(found - expected[::-1, :, 0] - 100.0).max() < 0.01 * 2000


def test_a_folder_of_results_holds_one_test(here, tmp_path, monkeypatch):
    arrays = [noise("u1", 3, 32, 32), noise("u1", 3, 32, 32)]
    root = two_folders(tmp_path / "d", arrays, suffix=".png")
    argv = ["--dataroot", str(root), "--model", "pix2pix", "--name", "n", "--gpu_ids", "-1"]
    train.main([*argv, *TINY, "--n_epochs", "1", "--n_epochs_decay", "0", "--no_html"])
    argv += ["--num_threads", "0"]
    test.main(argv)
    folder = Path("results/n/test_latest")
    (root / "testA" / "1.png").unlink()
    (root / "testB" / "1.png").unlink()
    test.main(argv)
    assert {p.name[0] for p in (folder / "images").iterdir()} == {"0"}
    test.main([*argv, "--only_output", "--format", "webp"])
    assert sorted(p.name for p in folder.iterdir() if p.name[0] != ".") == ["0.webp"]
    with monkeypatch.context() as patch:
        patch.setattr("data.outputs.can_hold", lambda *what: False)
        with pytest.raises(UserError, match="cannot hold"):  # before anything is removed
            test.main([*argv, "--only_output", "--format", "jpg"])
    assert (folder / "0.webp").exists()
    (folder / "mine.png").write_bytes(b"dear to somebody")
    with pytest.raises(UserError, match="mine.png"):
        test.main(argv)
    assert (folder / "mine.png").exists() and (folder / "0.webp").exists()


def test_pages_are_paired_tested_and_named(here, tmp_path):
    """A stack of A with a stack of B: page by page."""
    root = tmp_path / "d"
    for part in ("train", "test"):
        for side in "AB":
            (root / f"{part}{side}").mkdir(parents=True)
            stack = noise("u2", 3, 32, 32, seed=ord(side))
            pages = np.ascontiguousarray(np.moveaxis(stack, -1, 0))
            tifffile.imwrite(root / f"{part}{side}" / "ct.tif", pages, photometric="minisblack")
    argv = ["--dataroot", str(root), "--model", "pix2pix", "--name", "n", "--gpu_ids", "-1"]
    nc = ["--input_nc", "1", "--output_nc", "1"]
    train.main([*argv, *nc, *TINY, "--n_epochs", "1", "--n_epochs_decay", "0", "--no_html"])
    test.main([*argv, "--num_threads", "0"])
    folder = Path("results/n/test_latest/images/ct.tif")
    expected = noise("u2", 3, 32, 32, seed=ord("B"))
    for page in range(3):
        found = pixels(folder / f"page_{page + 1:04d}_real_B.tif")
        assert_equal(found, expected[..., page : page + 1])
