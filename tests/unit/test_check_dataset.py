"""scripts/check_dataset.py: each kind of damage, made here on purpose, must be in its table."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture, write_pictures
from PIL import Image
from test_mistakes import WITHOUT_CAPABILITIES

from data.base_dataset import PREPROCESS, get_transform
from data.template_dataset import TemplateDataset
from scripts import check_dataset
from scripts.dataset_check import pool, sizes
from util.errors import UserError

SCRIPT = Path(check_dataset.__file__)
HERE = ["--gpu_ids", "-1", "--num_threads", "0"]


def run(capsys, root, mode, *more):
    """(exit status, {(file, problem): what to do}, last line)."""
    capsys.readouterr()
    status = 0
    try:
        check_dataset.main(["--dataroot", str(root), "--dataset_mode", mode, *HERE, *more])
    except SystemExit as stop:
        status = stop.code
    *table, last = capsys.readouterr().out.splitlines()
    rows = [re.split("  +", line) for line in table[1:] if line]
    return status, {(file, problem): remedy for problem, file, remedy in rows}, last


@pytest.fixture
def photos(tmp_path):
    """Pictures for --dataset_mode single."""
    root = tmp_path / "photos"
    write_pictures(root, 3)
    return root


@pytest.fixture
def folders(tmp_path):
    """Pairs in two folders, 3 to train and 2 to test."""
    root = tmp_path / "folders"
    for part, count, first in (("train", 3, 0), ("test", 2, 50)):
        for side in "AB":
            (root / f"{part}{side}").mkdir(parents=True)
            for i in range(count):
                seed = first + i + (30 if side == "B" else 0)
                picture(seed).save(root / f"{part}{side}" / f"{i + 1}.png")
    return root


# --- all is well


def test_a_good_data_set_is_one_line(folders, photos, capsys, tmp_path):
    for i in range(4):
        path = tmp_path / "side" / ("train" if i < 2 else "test") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i, width=64).save(path)
    for mode, root, count in (
        ("aligned", folders, 10),
        ("unaligned", folders, 10),
        ("aligned", tmp_path / "side", 4),
        ("colorization", tmp_path / "side", 4),
        ("single", photos, 3),
    ):
        line = f"{count} files in {root} read as {mode}: no problems"
        assert run(capsys, root, mode) == (0, {}, line)


def test_third_layout_of_pairs(folders, capsys):
    for side in "AB":
        for phase in ("train", "test"):
            (folders / side).mkdir(exist_ok=True)
            (folders / f"{phase}{side}").rename(folders / side / phase)
    assert run(capsys, folders, "aligned")[0] == 0
    (folders / "B" / "train" / "2.png").unlink()
    status, rows, _ = run(capsys, folders, "aligned")
    assert status == 1 and list(rows) == [("A/train/2.png", "no partner")]


# --- files that cannot be read


def truncated(path):
    path.write_bytes(path.read_bytes()[:600])


def flipped_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # PNG has checksums
    path.write_bytes(data)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere.png")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (truncated, "truncated"),
        (flipped_bit, "unreadable|truncated"),
        (pipe, "no ordinary file"),
        (dangling, "a link to nothing"),
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_text("hello"), "unreadable: this is no image"),
        (lambda path: path.write_bytes(os.urandom(99)), "unreadable: this is no image"),
    ],
)
def test_unreadable_files(photos, capsys, damage, problem):
    damage(photos / "2.png")
    status, rows, last = run(capsys, photos, "single")
    ((file, found),) = rows
    assert status == 1 and file == "2.png" and re.match(problem, found)
    assert last.endswith(": 1 problem")


@pytest.mark.skipif(
    bool(WITHOUT_CAPABILITIES) and not shutil.which("setpriv"),
    reason="root may read everything, and setpriv (util-linux) is not here to give that up",
)
def test_a_file_without_permission(photos):
    (photos / "2.png").chmod(0)
    argv = ["--dataroot", str(photos), "--dataset_mode", "single", "--num_threads", "0"]
    done = subprocess.run(
        [*WITHOUT_CAPABILITIES, sys.executable, str(SCRIPT), *argv],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert re.search(
        r"2\.png.*unreadable: no permission|unreadable: no permission.*2\.png", done.stdout
    )
    assert ": 1 problem" in done.stdout


def test_a_decompression_bomb_and_a_large_picture(photos, capsys, monkeypatch):
    picture(80, 100, 100).save(photos / "bomb.png")
    picture(81, 80, 80).save(photos / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4500)  # PIL refuses twice as many
    status, rows, _ = run(capsys, photos, "single")
    assert status == 1 and set(rows) == {
        ("bomb.png", "too large: Image size (10000 pixels) exceeds limit of 9000 pixels"),
        ("large.png", "note: very large"),
    }


def test_every_bad_file_is_listed_in_order(photos, capsys):
    for name in ("z", "b", "2"):
        (photos / f"{name}.png").write_text("no image")
    _, rows, last = run(capsys, photos, "single")
    assert [file for file, _ in rows] == ["2.png", "b.png", "z.png"]
    assert last.startswith("5 files") and last.endswith("3 problems")


def test_names_cannot_drive_the_terminal(photos, capsys):
    (photos / "evil\x1b[2J\n.png").touch()
    _, rows, _ = run(capsys, photos, "single")
    assert list(rows) == [(r"evil\x1b[2J\n.png", "empty file")]


# --- modes


def opaque(image, alpha=255):
    image = image.convert("RGBA")
    image.putalpha(alpha)
    return image


def numbers(kind, high):
    values = np.zeros((32, 32), kind)
    values[:4] = high
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("image", "name", "problem"),
    [
        (opaque(picture(5)), "x.png", "note: alpha channel"),
        (opaque(picture(5), 99), "x.png", "transparent"),
        (picture(5).convert("P"), "x.png", "note: palette colours"),
        (picture(5).convert("1"), "x.png", "note: mode 1"),
        (picture(5).convert("CMYK"), "x.jpg", "CMYK, the colours of printing"),
        (numbers(np.uint16, 60000), "x.png", "note: 16-bit grey"),
        (numbers(np.uint16, 4095), "x.png", "16-bit, and nearly black: all values are below 4096"),
        (numbers(np.int32, 200), "x.tif", "note: 32-bit"),
        (numbers(np.int32, 70000), "x.tif", "32-bit out of range"),
        (numbers(np.float32, 1), "x.tif", "floating point"),
        (numbers(np.float32, 255), "x.tif", "note: floating point"),
        (picture(5).convert("L"), "x.png", None),
    ],
)
def test_odd_modes(photos, capsys, image, name, problem):
    image.save(photos / name)
    status, rows, _ = run(capsys, photos, "single")
    assert list(rows) == ([(name, problem)] if problem else [])
    assert status == int(problem is not None and not problem.startswith("note"))


def test_a_palette_with_a_transparent_colour(photos, capsys):
    picture(5).quantize(16).save(photos / "x.png", transparency=0)  # index 0 is in use
    assert list(run(capsys, photos, "single")[1]) == [("x.png", "transparent")]


def test_notes_of_a_folder_are_one_row(photos, capsys):
    for i in range(5):
        picture(i + 5).convert("P").save(photos / f"p{i}.png")
    status, rows, last = run(capsys, photos, "single")
    assert status == 0 and rows == {
        ("p0.png and 4 more", "note: palette colours"): "none: read as RGB"
    }
    assert last.endswith("no problems, 5 notes")


def test_several_pictures_in_one_file(photos, capsys):
    pages = [picture(i) for i in (6, 7)]
    pages[0].save(photos / "x.tif", save_all=True, append_images=pages[1:])
    assert list(run(capsys, photos, "single")[1]) == [
        ("x.tif", "note: several pictures in one file")
    ]


def test_pictures_with_another_suffix_are_noted(photos, capsys):
    picture(9).save(photos / "x.gif")
    (photos / "readme.txt").write_text("no picture")
    picture(9).save(photos / "png", "PNG")
    rows = run(capsys, photos, "single")[1]
    assert {file for file, _ in rows} == {"x.gif", "png"}
    assert {problem for _, problem in rows} == {
        "note: a picture that is passed over for its suffix"
    }


def test_grey_pictures_teach_no_colours(tmp_path, capsys):
    write_pictures(tmp_path / "train", 2)
    picture(3).convert("L").save(tmp_path / "train" / "grey.png")
    status, rows, _ = run(capsys, tmp_path, "colorization")
    assert status == 0 and list(rows) == [("train/grey.png", "note: no colours in it")]


# --- pairs


def test_all_unpaired_names_are_listed(folders, capsys):
    picture(90).save(folders / "trainA" / "only_a.png")
    picture(91).save(folders / "trainA" / "also_a.jpg")
    picture(92).save(folders / "testB" / "only_b.png")
    picture(93).save(folders / "trainB" / "1.jpg")
    status, rows, _ = run(capsys, folders, "aligned")
    assert status == 1 and set(rows) == {
        ("trainA/only_a.png", "no partner"),
        ("trainA/also_a.jpg", "no partner"),
        ("testB/only_b.png", "no partner"),
        ("trainB/1.png", "two with one name before the suffix"),
    }
    assert "trainB/only_a.*" in rows["trainA/only_a.png", "no partner"]
    assert run(capsys, folders, "unaligned")[0] == 0  # where names mean nothing


@pytest.mark.parametrize("mode", ["aligned", "unaligned"])
def test_a_folder_without_its_twin_or_without_pictures(folders, capsys, mode):
    write_pictures(folders / "valA", 1)
    for path in (folders / "testB").iterdir():
        path.unlink()
    status, rows, _ = run(capsys, folders, mode)
    assert status == 1
    assert {("valA", "one side only"), ("testB", "no pictures")} <= set(rows)


def test_pairs_of_two_sizes(folders, capsys):
    picture(90, 40, 32).save(folders / "trainB" / "2.png")
    status, rows, _ = run(capsys, folders, "aligned")
    note = ("trainA/2.png", "note: A and B of a pair differ in size")
    assert status == 0 and list(rows) == [note]
    netG = ("--netG", "resnet_6blocks")
    status, rows, _ = run(capsys, folders, "aligned", "--preprocess", "none", *netG)
    assert status == 1 and list(rows) == [("trainA/2.png", "32x32, and its partner is 40x32")]


def test_odd_width_of_side_by_side_pictures(aligned, capsys):
    picture(90, 63, 32).save(aligned / "train" / "odd.png")
    picture(91, 1, 32).save(aligned / "train" / "one.png")
    _, rows, _ = run(capsys, aligned, "aligned")
    problems = {file: problem for file, problem in rows if "odd" in problem}
    assert problems["train/odd.png"].startswith("odd width 63")
    assert problems["train/one.png"].startswith("odd width 1:")


# --- sizes


@pytest.mark.parametrize("preprocess", PREPROCESS)
@pytest.mark.parametrize("size", [(16, 16), (40, 20), (20, 40), (33, 65), (24, 24), (25, 23)])
def test_the_final_size_is_what_the_transform_gives(preprocess, size):
    opt = Namespace(preprocess=preprocess, load_size=30, crop_size=24, no_flip=True)
    tensor = get_transform(opt)(picture(1, *size))
    assert sizes.final_size(opt, size) == (tensor.shape[2], tensor.shape[1])


def resnet(*more):
    return ["--netG", "resnet_6blocks", *more]


@pytest.mark.parametrize(
    ("size", "options", "problem"),
    [
        ((64, 64), ["--preprocess", "none"], "64x64: --netG unet_256 needs multiples of 256"),
        ((256, 256), ["--preprocess", "none"], None),
        ((20, 28), resnet("--preprocess", "none"), "20x28 is too small for --netD basic"),
        ((24, 28), resnet("--preprocess", "none"), None),
        ((8, 8), resnet("--preprocess", "none", "--netD", "pixel"), None),
        (
            (4, 8),
            resnet("--preprocess", "none", "--netD", "pixel"),
            "4x8 is too small for --netG resnet_6blocks",
        ),
        (
            (30, 50),
            resnet("--preprocess", "crop", "--crop_size", "32"),
            "30x50 is smaller than --crop_size 32",
        ),
        ((32, 32), resnet("--preprocess", "crop", "--crop_size", "32"), None),
        ((9, 9), ["--preprocess", "resize_and_crop"], None),
    ],
)
def test_sizes_that_the_options_cannot_use(tmp_path, capsys, size, options, problem):
    (tmp_path / "train").mkdir()
    picture(1, 2 * size[0], size[1]).save(tmp_path / "train" / "x.png")
    status, rows, _ = run(capsys, tmp_path, "aligned", *options)
    assert list(rows) == ([("train/x.png", problem)] if problem else [])
    assert status == (problem is not None)


def test_test_pictures_meet_no_discriminator(folders, capsys):
    options = resnet("--preprocess", "none", "--crop_size", "8", "--load_size", "8")
    for side in "AB":
        picture(80 + ord(side), 8, 8).save(folders / f"test{side}" / "small.png")
    assert run(capsys, folders, "unaligned", *options)[0] == 0
    assert run(capsys, folders, "unaligned", "--phase", "test", *options)[0] == 1


def test_sizes_that_differ_in_a_batch(folders, capsys):
    picture(90, 48, 32).save(folders / "trainB" / "x.png")
    options = resnet("--preprocess", "none")
    assert run(capsys, folders, "unaligned", *options)[0] == 0
    status, rows, _ = run(capsys, folders, "unaligned", *options, "--batch_size", "2")
    assert status == 1 and list(rows) == [("trainB/x.png", "48x32, and most are 32x32")]
    assert run(capsys, folders, "unaligned", "--batch_size", "2")[0] == 0


# --- the same picture twice


def test_pictures_of_training_in_testing(folders, capsys):
    (folders / "testB" / "leak.png").write_bytes((folders / "trainB" / "1.png").read_bytes())
    with Image.open(folders / "trainA" / "3.png") as image:  # the same pixels in other bytes
        image.save(folders / "testA" / "2.bmp")
    status, rows, _ = run(capsys, folders, "unaligned")
    assert status == 1 and rows == {
        ("testB/leak.png", "the same picture is in train"): "remove it, or trainB/1.png",
        ("testA/2.bmp", "the same picture is in train"): "remove it, or trainA/3.png",
    }


def test_copies_within_a_part_are_notes(folders, capsys):
    (folders / "trainA" / "9.png").write_bytes((folders / "trainA" / "1.png").read_bytes())
    status, rows, _ = run(capsys, folders, "unaligned")
    assert status == 0
    ((key, remedy),) = rows.items()
    assert key == ("trainA/9.png", "note: the same picture twice") and "trainA/1.png" in remedy


def test_a_pair_leaks_as_a_whole(folders, capsys):
    for side in "AB":
        data = (folders / f"train{side}" / "1.png").read_bytes()
        (folders / f"test{side}" / "7.png").write_bytes(data)
    (folders / "testA" / "1.png").write_bytes((folders / "trainA" / "2.png").read_bytes())
    (folders / "trainB" / "3.png").write_bytes((folders / "trainA" / "3.png").read_bytes())
    status, rows, _ = run(capsys, folders, "aligned")
    assert status == 1 and set(rows) == {
        ("testA/7.png", "the same pair is in train"),
        ("testA/1.png", "note: A alone is in train as well"),
        ("trainA/3.png", "note: A and B are the same picture"),
    }


def test_side_by_side_pairs_leak_as_well(aligned, capsys):
    with Image.open(aligned / "train" / "2.png") as image:
        image.save(aligned / "test" / "new.tif")
    _, rows, _ = run(capsys, aligned, "aligned")
    assert rows["test/new.tif", "the same pair is in train"] == "remove it, or train/2.png"


# --- somebody's own dataset


def template(capsys, root, *more):
    return run(capsys, root, "template", "--model", "pix2pix", *more)


@pytest.fixture
def own(tmp_path):
    root = tmp_path / "own"
    for i in range(5):
        path = root / ("train" if i < 3 else "test") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path)
    return root


def test_a_plug_in_is_read_through_itself(own, capsys):
    line = f"5 files in {own} read as template: no problems"
    assert template(capsys, own) == (0, {}, line)
    (own / "train" / "1.png").write_text("no image")
    (own / "test" / "leak.png").write_bytes((own / "train" / "2.png").read_bytes())
    picture(9).convert("CMYK").save(own / "train" / "9.jpg")
    status, rows, _ = template(capsys, own)
    assert status == 1 and set(rows) == {
        ("train: sample 1", "cannot be read"),
        ("test/leak.png", "the same picture is in train"),
        ("train/9.jpg", "CMYK, the colours of printing"),
    }
    assert "train/1.png" in rows["train: sample 1", "cannot be read"]


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        ([], "a sample is a list"),
        ({"A": torch.zeros(3, 256, 256)}, "B is no tensor (channels, height, width)"),
        ({"A": torch.zeros(1, 256, 256), "B": torch.zeros(3, 256, 256)}, "A has 1 channels"),
        ({"A": torch.zeros(3, 256, 256), "B": torch.ones(3, 256, 256) * 2}, "B is not in [-1, 1]"),
        (
            {"A": torch.zeros(3, 256, 256), "B": torch.zeros(3, 250, 256)},
            "B 256x250: --netG unet_256 needs multiples of 256",
        ),
        (ZeroDivisionError("oh"), "data/template_dataset.py fails: ZeroDivisionError"),
        (UserError("replace it"), "cannot be read"),
    ],
)
def test_samples_that_no_model_can_take(own, capsys, monkeypatch, sample, problem):
    def give(self, index):
        if isinstance(sample, Exception):
            raise sample
        return sample

    monkeypatch.setattr(TemplateDataset, "__getitem__", give)
    monkeypatch.setattr(TemplateDataset, "__len__", lambda self: 1)
    status, rows, _ = template(capsys, own)
    assert status == 1
    assert set(rows) == {("train: sample 0", problem), ("test: sample 0", problem)}


# --- options


def test_the_options_are_those_of_train_py(folders, capsys):
    def status_and_message(*argv):
        with pytest.raises(SystemExit) as stop:
            check_dataset.main(list(argv))
        return stop.value.code, capsys.readouterr().err

    code, message = status_and_message("--dataset_mode", "aligned", "--crop_sise", "3")
    assert code == 2 and "did you mean --crop_size" in message and "needs --dataroot" in message
    assert message.startswith("check_dataset.py: error: ")
    root = str(folders)
    code, message = status_and_message("--dataroot", root, "--dataset_mode", "alignd")
    assert code == 2 and "did you mean aligned" in message


def test_the_model_follows_from_the_mode(folders):
    def model(*argv):
        return check_dataset.parse(["--dataroot", str(folders), "--gpu_ids", "-1", *argv])

    assert model("--dataset_mode", "aligned").netG == "unet_256"
    assert model("--dataset_mode=unaligned").model == "cycle_gan"
    assert model("--dataset_mode", "colorization").input_nc == 1
    assert not model("--dataset_mode", "single").isTrain
    assert model("--model", "pix2pix").dataset_mode == "aligned"
    assert model("--dataset_mode", "aligned", "--model", "cycle_gan").netG == "resnet_9blocks"


def test_processes_are_limited_to_the_cores(folders):
    def processes(*argv):
        return check_dataset.parse(["--dataroot", str(folders), *argv]).num_threads

    cores = check_dataset.available_cores()
    assert processes("--num_threads", "1000") == cores == processes()
    assert processes("--num_threads", "1") == 1
    assert processes("--dataset_mode", "single") == cores


@pytest.mark.parametrize("mode", ["aligned", "unaligned", "colorization", "single"])
def test_a_missing_data_set_is_a_mistake(tmp_path, mode):
    with pytest.raises(UserError, match="dataset"):
        check_dataset.main(["--dataroot", str(tmp_path / "dataset"), "--dataset_mode", mode, *HERE])


def test_max_dataset_size_limits_the_reading(folders, capsys):
    (folders / "trainA" / "3.png").write_text("no image")
    status, _, last = run(capsys, folders, "aligned", "--max_dataset_size", "2")
    assert status == 0 and last.startswith("8 files")


# --- processes


def test_processes_find_what_one_process_finds(folders, capsys):
    (folders / "trainA" / "1.png").write_text("no image")
    (folders / "testB" / "2.png").unlink()
    (folders / "testA" / "1.png").write_bytes((folders / "trainA" / "2.png").read_bytes())
    alone = run(capsys, folders, "unaligned")
    assert alone[0] == 1 and len(alone[1]) == 2
    assert run(capsys, folders, "unaligned", "--num_threads", "2") == alone


def square_or_die(number):
    if number in (3, 11):
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def test_a_killed_process_costs_only_its_own_item():
    expected = {n: None if n in (3, 11) else n**2 for n in range(40)}
    found = list(pool.results(square_or_die, range(40), 2))
    assert len(found) == 40 and dict(found) == expected


def test_an_item_that_comes_when_the_pool_is_broken_is_not_forgotten():
    class Broken:
        def submit(self, *_):
            raise BrokenProcessPool

    done, running = Future(), {}
    done.set_result(16)
    running[done] = 4
    with pytest.raises(BrokenProcessPool):
        pool._submit(Broken(), 5, running)
    left = pool._what_is_left(running)
    assert next(left) == (4, 16)
    with pytest.raises(StopIteration) as stop:
        next(left)
    assert stop.value.value == [5]


def test_few_items_are_taken_ahead():
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    for done, _ in enumerate(pool.results(abs, items(), 1), start=1):
        assert len(taken) <= done + pool.AHEAD


def test_a_file_that_kills_its_reader_is_a_row(folders, capsys, monkeypatch):
    dead = [("trainA/2.png", "kills its reader")]

    def results(task, items, processes):
        for item in items:
            gone = item.path.endswith("trainA/2.png")
            yield item, None if gone else task(item)

    monkeypatch.setattr(check_dataset, "results", results)
    status, rows, _ = run(capsys, folders, "aligned")
    assert status == 1 and list(rows) == dead


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_when_interrupted_it_ends_quietly_with_its_processes(tmp_path, end):
    for i in range(64):
        (tmp_path / f"{i}.png").symlink_to("all.ppm")
    Image.new("RGB", (4000, 4000)).save(tmp_path / "all.ppm")
    arguments = ["--dataroot", tmp_path, "--dataset_mode", "single", "--num_threads", "2"]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    deadline = time.monotonic() + 60
    # importing torch starts a process of its own for a moment
    while len(workers := children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    if end == signal.SIGINT:
        os.killpg(process.pid, end)  # as a terminal does
    else:
        process.kill()
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("", "")
    assert process.returncode == (130 if end == signal.SIGINT else -signal.SIGKILL)
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2 and not any(map(alive, workers))


def test_it_speaks_in_its_own_name(folders, tmp_path):
    (folders / "trainA" / "1.png").write_text("no image")
    argv = [sys.executable, SCRIPT, "--dataroot", folders, "--dataset_mode", "unaligned"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr == ""
    assert done.stdout.startswith("PROBLEM ") and "trainA/1.png" in done.stdout
    argv[3] = tmp_path / "nowhere"
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("check_dataset.py: error: ") and "Traceback" not in done.stderr
