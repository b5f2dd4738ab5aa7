"""Finding image files and reading them."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from small_datasets import saved, write
from torchrun import ROOT

from data import image_folder, image_io
from data.image_folder import IMG_EXTENSIONS, default_loader, load_image, make_dataset
from util.errors import UserError

RED, BLUE = (255, 0, 0), (0, 0, 255)


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


@pytest.mark.parametrize("folder", [".hidden/set", "set"])
def test_what_is_no_data_is_left_out_and_counted(tmp_path, capsys, folder):
    """Below the folder: the folder itself may be hidden."""
    root = tmp_path / folder
    hidden = [".ipynb_checkpoints", ".Trash-1000/files", ".thumbnails", "sub/@eaDir", "__MACOSX"]
    for name in ("a.png", "sub/b.png", *(f"{name}/x.png" for name in hidden), ".c.png"):
        write(root / name, RED)
    for name in ("notes.txt", "sub/other.TXT", "photo.psd", "LICENSE"):
        (root / name).touch()
    assert relative(make_dataset(str(root)), root) == ["a.png", "sub/b.png"]
    (line,) = capsys.readouterr().out.splitlines()
    for part in (str(root), "10 left out", "5 hidden folders", "2 .txt", "1 .psd", "1 hidden file"):
        assert part in line
    make_dataset(str(root / "sub" / "@eaDir"))
    assert capsys.readouterr().out == ""


def test_files_that_a_library_could_read_name_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(image_folder, "SUFFIXES", (".png",))
    write(tmp_path / "a.png", RED)
    (tmp_path / "b.HEIC").touch()
    make_dataset(str(tmp_path))
    assert "1 .heic" in (line := capsys.readouterr().out) and "pip install pillow-heif" in line


def test_heic_and_avif_are_read_where_pillow_can(tmp_path):
    pytest.importorskip("pillow_heif", reason="pip install pillow-heif")
    image = Image.new("RGB", (64, 64), RED)
    for suffix in ("heic", "avif"):
        if f".{suffix}" in image_io.SUFFIXES:
            image.save(tmp_path / f"a.{suffix}", quality=100)
            found = np.asarray(load_image(str(tmp_path / f"a.{suffix}"))).astype(int)
            assert abs(found - RED).max() < 6
    assert len(make_dataset(str(tmp_path))) >= 1


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    names = ["f1.png", "f2.png", "f10.png", "g/1_2.png", "g/01_3.png", "g/1_10.png"]
    for name in names:
        write(tmp_path / name, RED)
    assert relative(image_folder.list_frames(str(tmp_path)), tmp_path) == names
    assert relative(image_folder.list_frames(str(tmp_path), 2), tmp_path) == names[:2]
    assert image_folder.list_frames(str(tmp_path / "f1.png")) == [str(tmp_path / "f1.png")]


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


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    path = saved(tmp_path, np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16))
    assert [p[0] for p in np.asarray(load_image(path))[0].tolist()] == [0, 1, 128, 255]
    assert np.asarray(load_image(path, "L"))[0].tolist() == [0, 1, 128, 255]


def test_what_8_bits_cannot_hold_is_no_8_bit_image(tmp_path):
    path = saved(tmp_path, np.array([[0, 7, 255]], dtype=np.int32), name="a.tif")
    with pytest.raises(UserError, match="int32.*ImageReader"):
        load_image(path)
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
