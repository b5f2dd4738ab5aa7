"""--cache ram: the images of the uncached path, one file for all processes and later runs."""

import json
import os
import shutil
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from small_datasets import CHANCE, assert_same, dataset, epochs, options
from torchrun import ROOT, torchrun

import data
import train
from data import cache, create_dataset, image_io, image_reader
from data import loader as loader_module
from data.loader import Loader
from data.transforms import PREPROCESS
from options.test_options import TestOptions as OptionsOfTest
from options.train_options import TrainOptions
from util import distributed
from util.errors import UserError

MODES = {
    "aligned": dict(),
    "aligned two folders": dict(),
    "unaligned": dict(),
    "single": dict(),
    "colorization": dict(input_nc=1, output_nc=2),
    "template": dict(),
}
SIZES = [(20, 12), (13, 17), (11, 9), (8, 8)]  # over, under and at the crop


def write(path, seed, width, height, mode="RGB", **how):
    """An image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    if mode == "I;16":
        image = Image.fromarray(draw.integers(0, 65536, (height, width)).astype(np.uint16))
    else:
        image = Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
    image.save(path, **how)


def turned():
    exif = Image.Exif()
    exif[image_io.ORIENTATION] = 6
    return exif


def fill_folder(folder, offset, twice=1):
    """Images of all kinds; `twice` makes them twice as wide."""
    for i, (width, height) in enumerate(SIZES):
        write(folder / f"{i}.png", offset + i, width * twice, height)
    write(folder / "deep" / "grey.png", offset + 4, 14 * twice, 21, "L")
    write(folder / "grey16.png", offset + 5, 12 * twice, 10, "I;16")
    write(folder / "palette.png", offset + 6, 16 * twice, 12, "P")


def make(root, mode):
    """The dataset_mode, and --dataroot with images in it."""
    if mode == "aligned":
        fill_folder(root / "train", 0, twice=2)
    elif mode in ("aligned two folders", "unaligned"):
        fill_folder(root / "trainA", 0)
        fill_folder(root / "trainB", 20)
    else:
        fill_folder(root / ("" if mode == "single" else "train"), 0)
    if mode in ("unaligned", "single"):  # an image turned by its EXIF data, and one to spare
        folder = root / ("trainA" if mode == "unaligned" else "")
        write(folder / "turned.jpg", 40, 18, 13, exif=turned())
        write(folder / "turned.webp", 41, 9, 21, exif=turned(), lossless=True)
    return mode.split()[0]


def cached(root, mode, **changes):
    """A dataset whose images are in the cache."""
    filled = dataset(root, mode, **changes)
    cache.fill(filled)
    return filled


def files_in_cache(root):
    return sorted((root / "checkpoints" / ".image_cache").iterdir())


@pytest.fixture
def unread(monkeypatch):
    """From the call on, no image file may be read."""

    def forbid():
        monkeypatch.setattr(image_reader, "read_image", lambda path: pytest.fail(f"read {path}"))

    return forbid


@pytest.mark.parametrize("preprocess", PREPROCESS)
@pytest.mark.parametrize("direction, channels", [("AtoB", (3, 3)), ("BtoA", (1, 3))])
@pytest.mark.parametrize("mode", MODES)
def test_the_bits_are_those_of_the_uncached_path_and_no_file_is_read_again(
    tmp_path, unread, mode, direction, channels, preprocess
):
    changes = dict(input_nc=channels[0], output_nc=channels[1], direction=direction, **CHANCE)
    if mode == "template":
        changes.update(output_nc=channels[0], hole_size=0.3)
    changes.update(MODES[mode], preprocess=preprocess)
    name = make(tmp_path, mode)
    opt = options(tmp_path, dataset_mode=name, **changes)
    plain = epochs(Loader(dataset(tmp_path, name, **changes), opt))
    filled = cached(tmp_path, name, **changes)
    unread()
    assert_same(epochs(Loader(filled, opt)), plain)


@pytest.mark.parametrize("num_threads, start_method", [(2, "fork"), (1, "spawn")])
def test_workers_map_the_same_file_however_they_start(tmp_path, num_threads, start_method):
    make(tmp_path, "unaligned")
    opt = options(tmp_path, **CHANCE)
    expected = epochs(Loader(dataset(tmp_path, "unaligned", **CHANCE), opt))
    filled = cached(tmp_path, "unaligned", **CHANCE)
    for folder in ("trainA", "trainB"):
        shutil.rmtree(tmp_path / folder)
    opt = options(tmp_path, num_threads=num_threads, **CHANCE)
    assert_same(epochs(Loader(filled, opt, start_method)), expected)


def test_images_from_the_cache_are_pil_images_that_may_be_drawn_on(tmp_path):
    make(tmp_path, "single")
    for channels, mode in ((1, "L"), (3, "RGB")):
        filled = cached(tmp_path, "single", input_nc=channels)
        path = filled.A_paths[0]
        (image,) = filled.read(path)
        assert image.mode == mode
        image.putpixel((0, 0), 1 if channels == 1 else (1, 2, 3))
        (again,), (fresh,) = filled.read(path), filled.read.read(path)
        assert again.tobytes() == fresh.tobytes()  # the drawing stays out of the cache


def test_training_from_the_cache_gives_the_same_weights(unaligned, here):
    nets = []
    for cache_kind in ("none", "ram"):
        argv = ["--dataroot", str(unaligned), "--name", cache_kind, *TINY, "--no_html"]
        train.main([*argv, "--cache", cache_kind, "--n_epochs", "1", "--n_epochs_decay", "0",
                    "--load_size", "36"])  # fmt: skip
        nets.append(torch.load(here / "checkpoints" / cache_kind / "latest_net_G_A.pth"))
    assert all(torch.equal(value, nets[1][key]) for key, value in nets[0].items())
    assert len(list((here / "checkpoints" / ".image_cache").iterdir())) == 1


def test_a_resumed_epoch_is_the_rest_of_the_whole_one(tmp_path):
    make(tmp_path, "unaligned")
    opt = options(tmp_path, **CHANCE)
    whole = epochs(Loader(dataset(tmp_path, "unaligned", **CHANCE), opt), [4])
    resumed = Loader(cached(tmp_path, "unaligned", **CHANCE), opt)
    resumed.set_epoch(4, start=3)
    assert_same(list(resumed), whole[3:])


# --- later runs


def test_a_later_run_finds_the_file(tmp_path, unread, capsys):
    make(tmp_path, "unaligned")
    changes = dict(preprocess="resize_and_crop", load_size=100)
    cached(tmp_path, "unaligned", **changes)
    size = (14 + 2 * 4) * 3 * 100 * 100  # bytes of pixels; two files have 16 bits
    (file,) = files_in_cache(tmp_path)
    assert size <= file.stat().st_size < size + 16 * 100
    assert f"--cache ram: 16 images, 0.7 MB, are in {file}" in capsys.readouterr().out
    unread()
    cached(tmp_path, "unaligned", **changes)


def edited(root):
    write(root / "trainA" / "0.png", 99, 20, 12)


def touched(root):
    os.utime(root / "trainA" / "0.png", ns=(1, 1))


def another(root):
    write(root / "trainB" / "z.png", 99, 20, 12)


def removed(root):
    (root / "trainA" / "0.png").unlink()


def cut(root):
    (file,) = files_in_cache(root)
    file.write_bytes(file.read_bytes()[:-20])


def emptied(root):
    (file,) = files_in_cache(root)
    file.write_bytes(b"")


@pytest.mark.parametrize("change", [edited, touched, another, removed, cut, emptied])
def test_a_stale_or_damaged_file_is_replaced(tmp_path, change):
    make(tmp_path, "unaligned")
    before = cached(tmp_path, "unaligned", **CHANCE)
    path = before.A_paths[1]
    held = before.read_A(path)[0].tobytes()
    change(tmp_path)
    opt = options(tmp_path, **CHANCE)
    expected = epochs(Loader(dataset(tmp_path, "unaligned", **CHANCE), opt))
    assert_same(epochs(Loader(cached(tmp_path, "unaligned", **CHANCE), opt)), expected)
    assert len(files_in_cache(tmp_path)) == 1
    if change not in (cut, emptied):  # a run that still uses the old one keeps it
        assert held == before.read_A(path)[0].tobytes()


def test_another_size_or_channel_count_has_a_file_of_its_own(tmp_path, unread):
    make(tmp_path, "unaligned")
    ways = [dict(load_size=9), dict(load_size=10), dict(load_size=9, input_nc=1)]
    for way in ways:
        cached(tmp_path, "unaligned", preprocess="resize_and_crop", **way)
    assert len(files_in_cache(tmp_path)) == 3
    unread()
    for way in ways:
        assert len(cached(tmp_path, "unaligned", preprocess="resize_and_crop", **way)[0]["A"]) == (
            way.get("input_nc", 3)
        )


def test_what_killed_runs_left_is_removed_and_what_others_write_is_not(tmp_path):
    make(tmp_path, "unaligned")
    cached(tmp_path, "unaligned", **CHANCE)
    (file,) = files_in_cache(tmp_path)
    dead, busy = (file.with_name(f".0123abc{n}.tmp") for n in (1, 2))
    for path in (dead, busy):
        path.touch()
    long_ago = time.time() - 2 * cache.STALE_AFTER
    os.utime(dead, (long_ago, long_ago))
    touched(tmp_path)
    cached(tmp_path, "unaligned", **CHANCE)
    assert files_in_cache(tmp_path) == [busy, file]


# --- mistakes


def test_a_disk_without_room_is_refused_and_left_clean(tmp_path, monkeypatch):
    make(tmp_path, "unaligned")  # 9 and 7 images, 100x100 of 3 bytes
    usage = shutil.disk_usage(tmp_path)
    changes = dict(preprocess="resize_and_crop", load_size=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=449_999))
    with pytest.raises(UserError, match="16 files take 0.5 MB .*--checkpoints_dir.*--cache ram"):
        cached(tmp_path, "unaligned", **changes)
    assert files_in_cache(tmp_path) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=450_000))
    cached(tmp_path, "unaligned", **changes)


def test_a_disk_that_fills_up_meanwhile_is_one_message(tmp_path, monkeypatch):
    make(tmp_path, "unaligned")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="image_cache.*No space left on device.*--cache ram"):
        cached(tmp_path, "unaligned")
    assert files_in_cache(tmp_path) == []


def test_an_image_that_cannot_be_read_is_named_at_the_start(tmp_path):
    make(tmp_path, "unaligned")
    bad = tmp_path / "trainB" / "2.png"
    bad.write_bytes(bad.read_bytes()[:90])
    (tmp_path / "trainA" / "gone.png").symlink_to("nowhere")
    opt = options(tmp_path, dataset_mode="unaligned", cache="ram")
    with pytest.raises(UserError, match="cannot read the image .*trainA/gone.png"):
        create_dataset(opt)
    (tmp_path / "trainA" / "gone.png").unlink()
    with pytest.raises(UserError, match="cannot read the image .*trainB/2.png"):
        create_dataset(opt)


def test_images_too_narrow_or_unequal_are_told_by_their_own_sizes(tmp_path):
    make(tmp_path, "aligned two folders")
    write(tmp_path / "trainB" / "0.png", 0, 20, 18)
    filled = cached(tmp_path, "aligned", preprocess="scale_width", load_size=10)
    with pytest.raises(UserError, match="trainA/0.png is 20x12 and .*trainB/0.png is 20x18"):
        filled[0]
    write(tmp_path / "train" / "thin.png", 0, 1, 9)
    with pytest.raises(UserError, match="thin.png is 1x9, too narrow"):
        cached(tmp_path, "aligned")


PLUGIN = """
from data.base_dataset import BaseDataset

class MineDataset(BaseDataset):
    def __len__(self): return 1
    def __getitem__(self, index): return {}
"""


def error_of(capsys, parse, *argv):
    with pytest.raises(SystemExit) as exit:
        parse(["--dataroot", "x", *argv])
    assert exit.value.code == 2
    return capsys.readouterr().err


def test_a_dataset_that_reads_by_itself_says_so(here, capsys, monkeypatch):
    monkeypatch.setattr("data.__path__", [*data.__path__, str(here)])
    (here / "mine_dataset.py").write_text(PLUGIN)
    argv = ["--dataset_mode", "mine", "--cache", "ram"]
    error = error_of(capsys, TrainOptions().parse, *argv)
    assert "--cache ram" in error and "--dataset_mode mine" in error and "to_cache" in error
    assert TrainOptions().parse(["--dataroot", "x", *argv[:2]]).cache == "none"


def test_testing_has_no_use_for_a_cache(here, capsys):
    error = error_of(capsys, OptionsOfTest().parse, "--cache", "ram")
    assert "--cache ram: testing reads each image once" in error


# --- how many workers


def test_workers_follow_from_the_cores_unless_given(here, monkeypatch):
    def num_threads(*argv):
        return TrainOptions().parse(["--dataroot", "x", *argv]).num_threads

    monkeypatch.setattr(distributed, "local_world_size", lambda: 2)
    for cores, expected in ((1, 1), (6, 3), (64, 8)):
        monkeypatch.setattr(loader_module, "available_cores", lambda cores=cores: cores)
        assert num_threads() == expected
        assert num_threads("--cache", "ram") == 0
        assert num_threads("--cache", "ram", "--model", "colorization") == expected
        assert num_threads("--num_threads", "4") == 4
        assert num_threads("--num_threads", "5", "--cache", "ram") == 5


# --- several ranks, and their end

RANK = """
    import json, os, sys
    sys.path[:0] = [{root!r}, {tests!r}, {tests!r} + "/.."]
    import torch
    from small_datasets import CHANCE, options
    from data import cache, image_reader
    from data.unaligned_dataset import UnalignedDataset
    from util import distributed

    read = []
    def noting(path, load=image_reader.read_image):
        read.append(os.path.basename(path))
        return load(path)

    with distributed.job(torch.device("cpu"), 1):
        image_reader.read_image = noting
        opt = options({data!r}, **CHANCE, preprocess="crop", checkpoints_dir={out!r})
        filled = UnalignedDataset(opt)
        cache.fill(filled)
        total = sum(int(sample[side].sum()) for sample in map(filled.__getitem__, range(9))
                    for side in "AB")
        with open("/proc/self/maps") as maps:
            inodes = [line.split()[4] for line in maps if ".image_cache" in line]
        json.dump([len(read), inodes], open(f"{out}/{{distributed.rank()}}.json", "w"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ranks_read_once_and_share_the_file(tmp_path):
    root, out = tmp_path / "data", tmp_path / "out"
    out.mkdir()
    make(root, "unaligned")
    write(root / "trainB" / "7.png", 0, 15, 15)
    write(root / "trainB" / "8.png", 0, 15, 15)  # as many as in A: an epoch reads all
    script = tmp_path / "rank.py"
    script.write_text(
        textwrap.dedent(RANK).format(
            root=str(ROOT), tests=str(ROOT / "tests"), data=str(root), out=str(out)
        )
    )
    done = torchrun(2, script)
    assert done.returncode == 0, done.stderr
    (read, one), (none, two) = (json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (read, none) == (18, 0)  # and samples read none again
    assert one == two and len(one) == 1
    assert done.stdout.count("--cache ram: 18 images") == 1


def test_an_interrupted_fill_ends_at_once_and_leaves_no_file(tmp_path):
    make(tmp_path, "unaligned")
    filled = dataset(tmp_path, "unaligned")
    filled.A_paths = [str(tmp_path / "trainA" / "0.png")]
    filled.B_paths = [f"{n}.png" for n in range(10_000)]

    def slow(path):
        time.sleep(0.02)
        if path == "3.png":
            raise KeyboardInterrupt
        return (Image.new("RGB", (4, 4)),)

    filled.read_B.read = slow
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        cache.fill(filled)
    assert time.monotonic() - began < 5
    assert files_in_cache(tmp_path) == []
