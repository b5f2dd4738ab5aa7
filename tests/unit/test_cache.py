"""--cache ram: pixels of the uncached path, one copy for all processes, refused if too large."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image, ImageFile
from test_datasets import dataset, options
from test_loader import assert_same, epochs
from torchrun import ROOT, torchrun
from torchvision import transforms

import train
from data import cache, create_dataset, image_io, memory, waiting
from data import loader as loader_module
from data.base_dataset import PREPROCESS, get_params, get_transform
from data.loader import Loader
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
CHANCE = dict(no_flip=False, serial_batches=False, load_size=15, crop_size=11, seed=3)


def write(path, seed, width, height, mode="RGB", **how):
    """A picture of noise."""
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
    """Pictures of all kinds; `twice` makes them twice as wide."""
    for i, (width, height) in enumerate(SIZES):
        write(folder / f"{i}.png", offset + i, width * twice, height)
    write(folder / "deep" / "grey.png", offset + 4, 14 * twice, 21, "L")
    write(folder / "grey16.png", offset + 5, 12 * twice, 10, "I;16")
    write(folder / "palette.png", offset + 6, 16 * twice, 12, "P")


def data_set(root, mode):
    """The dataset_mode, and --dataroot with pictures in it."""
    if mode == "aligned":
        fill_folder(root / "train", 0, twice=2)
    elif mode in ("aligned two folders", "unaligned"):
        fill_folder(root / "trainA", 0)
        fill_folder(root / "trainB", 20)
    else:
        fill_folder(root / ("" if mode == "single" else "train"), 0)
    if mode in ("unaligned", "single"):  # a picture turned by its EXIF data, and one to spare
        folder = root / ("trainA" if mode == "unaligned" else "")
        write(folder / "turned.jpg", 40, 18, 13, exif=turned())
        write(folder / "turned.webp", 41, 9, 21, exif=turned(), lossless=True)
    return mode.split()[0]


def cached(root, mode, **changes):
    """A dataset whose cache is filled."""
    filled = dataset(root, mode, **changes)
    cache.fill(filled)
    return filled


@pytest.mark.parametrize("preprocess", PREPROCESS)
@pytest.mark.parametrize("direction, channels", [("AtoB", (3, 3)), ("BtoA", (1, 3))])
@pytest.mark.parametrize("mode", MODES)
def test_the_bits_are_those_of_the_uncached_path(tmp_path, mode, direction, channels, preprocess):
    changes = dict(input_nc=channels[0], output_nc=channels[1], direction=direction, **CHANCE)
    if mode == "template":
        changes.update(output_nc=channels[0], hole_size=0.3)
    changes.update(MODES[mode], preprocess=preprocess)
    name = data_set(tmp_path, mode)
    opt = options(tmp_path, dataset_mode=name, **changes)
    plain = epochs(Loader(dataset(tmp_path, name, **changes), opt))
    assert_same(epochs(Loader(cached(tmp_path, name, **changes), opt)), plain)


def test_every_bit_is_that_of_torchvision():
    """All 256 levels, a crop and a flip, against PIL and torchvision's own transforms."""
    levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = Image.fromarray(np.stack((levels, levels[::-1], levels[:, ::-1]), axis=-1))
    usual = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    opt = options(".", preprocess="crop", crop_size=7, no_flip=False)
    for x, y, mirrored in ((3, 1, True), (0, 0, False), (25, 0, True)):
        part = image.crop((x, y, x + 7, y + 7))
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part
        ours = get_transform(opt, {"crop_pos": (x, y), "flip": mirrored})
        assert torch.equal(ours(image_io.as_uint8(image)), usual(part))
        assert torch.equal(ours(image), usual(part))
    whole = get_transform(options(".", preprocess="none"))
    assert torch.equal(whole(image_io.as_uint8(image)), usual(image))


@pytest.mark.parametrize("preprocess", PREPROCESS)
def test_prepared_pictures_draw_what_their_originals_draw(preprocess):
    opt = options(".", preprocess=preprocess, load_size=37, crop_size=29)
    for size in ((64, 48), (47, 101), (30, 1000), (29, 29), (3, 500)):
        width, height = image_io.resized_size(opt, size)
        assert image_io.resized_size(opt, (width, height)) == (width, height)
        draws = []
        for drawn in (size, (width, height)):
            random.seed(1)
            draws.append([get_params(opt, drawn) for _ in range(5)])
        assert draws[0] == draws[1]


@pytest.mark.parametrize("mode", MODES)
def test_files_are_read_once(tmp_path, mode):
    name = data_set(tmp_path, mode)
    changes = dict(preprocess="scale_width_and_crop", hole_size=0.3, **CHANCE, **MODES[mode])
    opt = options(tmp_path, dataset_mode=name, **changes)
    expected = epochs(Loader(dataset(tmp_path, name, **changes), opt))
    filled = cached(tmp_path, name, **changes)
    for path in tmp_path.rglob("*.*"):
        path.unlink()
    assert_same(epochs(Loader(filled, opt)), expected)


@pytest.mark.parametrize(
    "num_threads, start_method", [(2, "fork"), (1, "spawn"), (1, "forkserver")]
)
def test_workers_share_the_memory_however_they_start(tmp_path, num_threads, start_method):
    data_set(tmp_path, "unaligned")
    opt = options(tmp_path, **CHANCE)
    expected = epochs(Loader(dataset(tmp_path, "unaligned", **CHANCE), opt))
    filled = cached(tmp_path, "unaligned", **CHANCE)
    store = filled.read_A.store
    assert filled.read_B.store is store
    for path in tmp_path.rglob("*.*"):
        path.unlink()  # a worker without the memory would have to read the files
    opt = options(tmp_path, **{**CHANCE, "num_threads": num_threads})
    with_workers = Loader(filled, opt, start_method)
    first = epochs(with_workers, [1])
    assert_same(first, expected[: len(first)])
    store.values[store.start[0] :] = 0  # what workers with a copy would not notice
    black = epochs(with_workers, [2])
    assert all((batch[side] == -1).all() for batch in black for side in "AB")


def test_ranks_that_share_no_memory_read_all_of_it(tmp_path, monkeypatch):
    data_set(tmp_path, "unaligned")
    opt = options(tmp_path, **CHANCE)
    expected = epochs(Loader(dataset(tmp_path, "unaligned", **CHANCE), opt))
    monkeypatch.setattr(distributed, "local_world_size", lambda: 2)  # and there is no other
    filled = cached(tmp_path, "unaligned", **CHANCE)
    assert all(map(all, filled.read_A.store.index.tolist()))
    assert_same(epochs(Loader(filled, opt)), expected)


def test_training_from_the_cache_gives_the_same_weights(unaligned, here):
    nets = []
    for cache_kind in ("none", "ram"):
        argv = ["--dataroot", str(unaligned), "--name", cache_kind, *TINY, "--no_html"]
        train.main([*argv, "--cache", cache_kind, "--n_epochs", "1", "--n_epochs_decay", "0",
                    "--load_size", "36"])  # fmt: skip
        nets.append(torch.load(here / "checkpoints" / cache_kind / "latest_net_G_A.pth"))
    assert all(torch.equal(value, nets[1][key]) for key, value in nets[0].items())


def test_a_transform_that_wants_grey_refuses_cached_colours():
    with pytest.raises(ValueError, match="grey"):
        get_transform(options("."), grayscale=True)(torch.zeros(3, 8, 8, dtype=torch.uint8))


def test_a_resumed_epoch_is_the_rest_of_the_whole_one(tmp_path):
    data_set(tmp_path, "unaligned")
    opt = options(tmp_path, **CHANCE)
    whole = epochs(Loader(dataset(tmp_path, "unaligned", **CHANCE), opt), [4])
    resumed = Loader(cached(tmp_path, "unaligned", **CHANCE), opt)
    resumed.set_epoch(4, start=3)
    assert_same(list(resumed), whole[3:])


def test_a_picture_larger_than_its_header_said_is_read_each_time(tmp_path, monkeypatch):
    data_set(tmp_path, "single")
    changes = dict(preprocess="crop", **CHANCE)
    opt = options(tmp_path, dataset_mode="single", **changes)
    expected = epochs(Loader(dataset(tmp_path, "single", **changes), opt))
    monkeypatch.setattr(image_io, "size_in_header", lambda path: (12, 10))
    filled = cached(tmp_path, "single", **changes)
    there = {os.path.basename(p): filled.read.store.index[n].any()
             for p, n in filled.read.places.items()}  # fmt: skip
    assert there["grey16.png"] and not there["0.png"]
    assert_same(epochs(Loader(filled, opt)), expected)


@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp", "png"])
def test_the_size_in_the_header_is_that_of_the_upright_picture(tmp_path, suffix):
    write(tmp_path / f"a.{suffix}", 0, 20, 10, exif=turned())
    write(tmp_path / f"b.{suffix}", 0, 20, 10)
    sizes = [image_io.size_in_header(str(tmp_path / f"{name}.{suffix}")) for name in "ab"]
    assert sizes == [(10, 20), (20, 10)]


def test_planning_leaves_pictures_unread(tmp_path, monkeypatch):
    data_set(tmp_path, "aligned")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("it read one"))
    monkeypatch.setattr(image_io, "load_image", lambda path: pytest.fail("it read one"))
    for preprocess in PREPROCESS:
        assert cache.size_if_it_fits(dataset(tmp_path, "aligned", preprocess=preprocess))


# --- mistakes


def test_a_cache_that_does_not_fit_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    data_set(tmp_path, "unaligned")  # 9 and 7 pictures, 100x100 of 3 bytes, 8 for the size of each
    changes = dict(preprocess="resize_and_crop", load_size=100)
    needed = 16 * (30_000 + 8)
    monkeypatch.setattr(image_io, "load_image", lambda path: pytest.fail("it read one"))
    monkeypatch.setattr(cache, "available_memory", lambda: int(needed / 0.9) - 1)
    with pytest.raises(UserError, match="16 pictures take 0.5 MB .* --load_size"):
        cached(tmp_path, "unaligned", **changes)
    assert cache.size_if_it_fits(dataset(tmp_path, "unaligned", **changes)) is None
    monkeypatch.setattr(cache, "available_memory", lambda: int(needed / 0.9) + 1)
    assert cache.size_if_it_fits(dataset(tmp_path, "unaligned", **changes)) == needed
    listed_twice = dataset(tmp_path, "unaligned", **changes)
    listed_twice.A_paths *= 2
    assert cache.size_if_it_fits(listed_twice) == needed


def test_the_size_is_said(tmp_path, capsys):
    data_set(tmp_path, "unaligned")
    cached(tmp_path, "unaligned", preprocess="resize_and_crop", load_size=100)
    assert "--cache ram: 16 pictures take 0.5 MB of memory (" in capsys.readouterr().out


@pytest.mark.parametrize("preprocess", ["resize_and_crop", "scale_width"])
def test_an_image_that_cannot_be_read_is_named_at_the_start(tmp_path, preprocess):
    data_set(tmp_path, "unaligned")
    bad = tmp_path / "trainB" / "2.png"
    bad.write_bytes(bad.read_bytes()[:90])
    with pytest.raises(UserError, match="cannot read the image .*trainB/2.png"):
        create_dataset(options(tmp_path, dataset_mode="unaligned", cache="ram",
                               preprocess=preprocess))  # fmt: skip


def test_a_picture_too_narrow_for_two_is_named(tmp_path):
    data_set(tmp_path, "aligned")
    write(tmp_path / "train" / "thin.png", 0, 1, 9)
    for preprocess in PREPROCESS:
        with pytest.raises(UserError, match="thin.png is 1x9, too narrow"):
            cached(tmp_path, "aligned", preprocess=preprocess)


def test_pairs_that_do_not_match_are_told_by_their_own_sizes(tmp_path):
    data_set(tmp_path, "aligned two folders")
    write(tmp_path / "trainB" / "0.png", 0, 20, 18)
    filled = cached(tmp_path, "aligned", preprocess="scale_width", load_size=10)
    with pytest.raises(UserError, match="trainA/0.png is 20x12 and .*trainB/0.png is 20x18"):
        filled[0]


def test_no_memory_to_be_had_is_one_sentence(monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="--cache ram: 2.0 GB .*No space left on device"):
        memory.SharedBlock(2_000_000_000)


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


def test_a_data_set_that_reads_by_itself_says_so(here, capsys, monkeypatch):
    monkeypatch.setattr("data.__path__", [*__import__("data").__path__, str(here)])
    (here / "mine_dataset.py").write_text(PLUGIN)
    argv = ["--dataset_mode", "mine", "--cache", "ram"]
    error = error_of(capsys, TrainOptions().parse, *argv)
    assert "--cache ram: --dataset_mode mine reads its files by itself" in error
    assert TrainOptions().parse(["--dataroot", "x", *argv[:2]]).cache == "none"


def test_testing_has_no_use_for_a_cache(here, capsys):
    error = error_of(capsys, OptionsOfTest().parse, "--cache", "ram")
    assert "--cache ram: testing reads each image once" in error


# --- how many workers


def test_workers_follow_from_the_cores_unless_typed(here, monkeypatch):
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


def loader_for_advice(root, monkeypatch, cores=4, **changes):
    monkeypatch.setattr(loader_module, "available_cores", lambda: cores)
    data_set(root, "unaligned")
    opt = options(root, preprocess="resize_and_crop", dataset_mode="unaligned", **changes)
    return create_dataset(opt)


def test_waiting_names_what_is_left_to_try(tmp_path, monkeypatch):
    loader = loader_for_advice(tmp_path, monkeypatch, num_threads=1)
    assert waiting.waiting_remedy(0.05, loader) is None
    advice = waiting.waiting_remedy(0.43, loader)
    assert "43%" in advice and "--cache ram" in advice and "--num_threads 4" in advice
    loader = loader_for_advice(tmp_path, monkeypatch, num_threads=1, cache="ram")
    advice = waiting.waiting_remedy(0.43, loader)
    assert "--cache" not in advice and "--num_threads 4" in advice
    loader = loader_for_advice(tmp_path, monkeypatch, num_threads=4)
    monkeypatch.setattr(cache, "available_memory", lambda: 100)
    assert "--load_size" in waiting.waiting_remedy(0.43, loader)


def test_waiting_for_a_data_set_of_ones_own_is_answered_too():
    class Own(torch.utils.data.Dataset):
        def __len__(self):
            return 1

    loader = Loader(Own(), options(".", num_threads=4))
    assert "--cache" not in waiting.waiting_remedy(0.5, loader)


# --- how much memory there is


def test_the_narrowest_limit_counts(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 100 kB\n")
    assert memory._free_in_machine(tmp_path / "meminfo") == 102_400
    monkeypatch.setattr(memory, "_free_in_machine", lambda: 1000)
    monkeypatch.setattr(memory, "_free_in_cgroups", lambda: iter([700, 300]))
    assert memory.available_memory() == 300
    monkeypatch.setattr(memory, "_free_in_cgroups", lambda: iter([]))
    monkeypatch.setattr(os, "statvfs", lambda folder: Namespace(f_bavail=2, f_frsize=100))
    assert memory.available_memory() == 1000
    monkeypatch.setattr(distributed, "local_world_size", lambda: 2)  # then a folder holds the file
    assert memory.available_memory() == 200


def test_limits_of_control_groups(tmp_path):
    def group(path, **files):
        (tmp_path / path).mkdir(parents=True)
        for name, value in files.items():
            (tmp_path / path / name.replace("__", ".")).write_text(value)

    group("job/step", memory__max="max", memory__current="5")
    (tmp_path / "job" / "memory.max").write_text("1000")
    (tmp_path / "job" / "memory.current").write_text("400")
    (tmp_path / "job" / "memory.stat").write_text("anon 300\ninactive_file 60\n")
    group("memory/old", memory__limit_in_bytes="500", memory__usage_in_bytes="100")
    own = tmp_path / "own"
    own.write_text("5:cpu:/elsewhere\n4:memory:/old\n0::/job/step\n")
    assert sorted(memory._free_in_cgroups(tmp_path, own)) == [400, 660]
    own.write_text("0::/hidden/in/a/container\n")
    assert list(memory._free_in_cgroups(tmp_path, own)) == []


# --- several ranks, and their end

RANK = """
    import json, os, sys
    sys.path[:0] = [{root!r}, {tests!r}, {tests!r} + "/.."]
    import torch
    from test_loader import options
    from data import cache, image_io
    from data.unaligned_dataset import UnalignedDataset
    from util import distributed

    read = []
    def noting(path, load=image_io.load_image):
        read.append(os.path.basename(path))
        return load(path)

    with distributed.job(torch.device("cpu"), 1):
        image_io.load_image = noting
        filled = UnalignedDataset(options(dataroot={data!r}, preprocess="crop"))
        cache.fill(filled)
        stat = os.fstat(filled.read_A.store.block.file)
        total = sum(int(sample[side].sum()) for sample in map(filled.__getitem__, range(9))
                    for side in "AB")
        distributed.mean({{"done": 1.0}})
        result = dict(read=read, inode=[stat.st_dev, stat.st_ino], links=stat.st_nlink)
        json.dump(result, open(f"{out}/{{distributed.rank()}}.json", "w"))
"""


def test_ranks_share_the_work_and_the_memory(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    out.mkdir()
    data_set(data, "unaligned")
    write(data / "trainB" / "7.png", 0, 15, 15)
    write(data / "trainB" / "8.png", 0, 15, 15)  # as many as in A: an epoch reads all
    script = tmp_path / "rank.py"
    script.write_text(
        textwrap.dedent(RANK).format(
            root=str(ROOT), tests=str(ROOT / "tests" / "unit"), data=str(data), out=str(out)
        )
    )
    before = set(os.listdir(memory._folder()))
    done = torchrun(2, script)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one["inode"] == two["inode"] and one["links"] == two["links"] == 0
    assert len(one["read"]) == len(two["read"]) == 9  # of 18: and samples read none again
    assert done.stdout.count("--cache ram: 18 pictures") == 1
    left = set(os.listdir(memory._folder())) - before
    assert not [name for name in left if name.startswith("image-cache")]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_has_no_name_that_outlives_a_killed_process():
    code = (
        "import sys; from data.memory import SharedBlock; block = SharedBlock(1_000_000); "
        "block.bytes[:3] = b'abc'; print('ready', flush=True); sys.stdin.read()"
    )
    pipe, before = subprocess.PIPE, set(os.listdir("/dev/shm"))
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=pipe, stdout=pipe) as held:
        assert held.stdout.readline() == b"ready\n"
        files = [os.readlink(f) for f in Path(f"/proc/{held.pid}/fd").iterdir()]
        assert any("image-cache (deleted)" in name for name in files)
        left = set(os.listdir("/dev/shm")) - before
        assert not [name for name in left if name.startswith("image-cache")]
        held.send_signal(signal.SIGKILL)


def test_an_interrupted_fill_ends_at_once():
    def slow(value):
        time.sleep(0.02)
        if value == 3:
            raise KeyboardInterrupt
        return value

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(cache.in_threads(slow, list(range(10_000)), portion=1))
    assert time.monotonic() - began < 5
