"""scripts/check_dataset.py: each kind of damage, made here on purpose, must be in its list."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_image, write_images
from PIL import Image

from data import image_reader
from data.template_dataset import TemplateDataset
from scripts import check_dataset
from util.errors import UserError

SCRIPT = Path(check_dataset.__file__)
HERE = ["--gpu_ids", "-1", "--num_threads", "0"]
NONE = ["--preprocess", "none", "--netG", "resnet_6blocks"]


def run(capsys, root, mode, *more):
    """(exit status, problems, notes, last line)."""
    capsys.readouterr()
    status = 0
    try:
        check_dataset.main(["--dataroot", str(root), "--dataset_mode", mode, *HERE, *more])
    except SystemExit as stop:
        status = stop.code
    *lines, last = capsys.readouterr().out.splitlines()
    kinds = ([line for line in lines if line.startswith(kind)] for kind in ("problem: ", "note: "))
    return status, *kinds, last


def assert_only(lines, *parts):
    """One line, with all these words."""
    assert len(lines) == 1 and not [p for p in parts if p not in lines[0]], lines


@pytest.fixture
def photos(tmp_path):
    """Images for --dataset_mode single."""
    write_images(tmp_path / "photos", 3)
    return tmp_path / "photos"


@pytest.fixture
def folders(tmp_path):
    """Pairs in two folders, 3 to train and 2 to test."""
    root = tmp_path / "folders"
    for part, count, first in (("train", 3, 0), ("test", 2, 50)):
        for side in "AB":
            (root / f"{part}{side}").mkdir(parents=True)
            for i in range(count):
                seed = first + i + (30 if side == "B" else 0)
                draw_image(seed).save(root / f"{part}{side}" / f"{i + 1}.png")
    return root


@pytest.fixture
def aligned(tmp_path):
    """Side-by-side pairs, 3 to train and 2 to test, all different."""
    for i in range(5):
        path = tmp_path / "side" / ("train" if i < 3 else "test") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_image(i, width=64).save(path)
    return tmp_path / "side"


def test_a_good_dataset_has_a_summary_and_no_problems(folders, photos, aligned, capsys):
    for mode, root, count in (
        ("aligned", folders, 10),
        ("unaligned", folders, 10),
        ("aligned", aligned, 5),
        ("colorization", aligned, 5),
        ("single", photos, 3),
        ("template", aligned, 5),
    ):
        more = ["--model", "pix2pix"] if mode == "template" else []
        status, problems, notes, last = run(capsys, root, mode, *more)
        assert (status, problems, notes) == (0, [], []), mode
        assert last == f"{count} files in {root} read as {mode}: no problems"


def test_the_summary_says_sizes_before_and_after(folders, capsys):
    draw_image(90, 40, 36).save(folders / "trainB" / "4.png")
    check_dataset.main(["--dataroot", str(folders), "--dataset_mode", "unaligned", *HERE])
    train, test, _ = capsys.readouterr().out.splitlines()
    assert train.startswith("train: 4 samples, images of 32x32 to 40x36;")
    assert train.endswith("after --preprocess resize_and_crop: 256x256 (8)")
    assert test.startswith("test: 2 samples, images of 32x32;")


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
    ("damage", "why"),
    [
        (truncated, "truncated"),
        (flipped_bit, ""),
        (pipe, "a pipe"),
        (dangling, "No such file"),
        (lambda path: path.write_text("hello"), "no image file"),
    ],
)
def test_unreadable_files(photos, capsys, damage, why):
    damage(photos / "2.png")
    status, problems, _, last = run(capsys, photos, "single")
    assert status == 1 and last.endswith("3 files in " + f"{photos} read as single: 1 problem")
    assert_only(problems, str(photos / "2.png"), "cannot read the image", why, "replace it")


def test_every_bad_file_is_listed_and_no_name_drives_the_terminal(folders, capsys):
    for name in ("trainA/3", "trainB/1", "testB/2", "testB/evil\x1b[2J\n"):
        (folders / f"{name}.png").write_text("no image")
    _, problems, _, last = run(capsys, folders, "unaligned")
    assert [re.search(r"\w+/[^/]*\.png", line)[0] for line in problems] == [
        "testB/2.png", r"testB/evil\x1b[2J\n.png", "trainA/3.png", "trainB/1.png",
    ]  # fmt: skip
    assert last.startswith("11 files") and last.endswith("4 problems")


def opaque(image, alpha=255):
    image = image.convert("RGBA")
    image.putalpha(alpha)
    return image


def numbers(kind, *values):
    array = np.zeros((32, 32), kind)
    array[:4] = values[-1]
    array[4, 0] = values[0]
    return Image.fromarray(array)


@pytest.mark.parametrize(
    ("image", "name", "problem"),
    [
        (opaque(draw_image(5)), "x.png", None),
        (opaque(draw_image(5), 99), "x.png", "transparent"),
        (draw_image(5).convert("P"), "x.png", None),
        (draw_image(5).convert("L"), "x.png", None),
        (draw_image(5).convert("CMYK"), "x.jpg", "CMYK"),
        (numbers(np.uint16, 60000), "x.png", None),
        (numbers(np.uint16, 4095), "x.png", "--value_range_A 0 4095"),
        (numbers(np.int32, 200), "x.tif", "--value_range_A 0 200"),
        (numbers(np.int32, 70000), "x.tif", "--value_range_A 0 70000"),
        (numbers(np.float32, 1), "x.tif", "--value_range_A 0 1"),
    ],
)
def test_modes_that_come_out_otherwise_than_they_look(photos, capsys, image, name, problem):
    image.save(photos / name)
    status, problems, _, _ = run(capsys, photos, "single")
    assert status == (problem is not None)
    if problem:
        assert_only(problems, problem)


def test_a_signed_16_bit_tiff_is_called_what_it_is(photos, capsys):
    values = np.array([[-5, 300]], np.int16).view(np.uint16)
    Image.fromarray(values).save(photos / "x.tif", tiffinfo={339: 2})  # SampleFormat: signed
    _, problems, _, _ = run(capsys, photos, "single")
    assert_only(problems, "int16", "--value_range_A -5 300")


def test_a_palette_with_a_transparent_colour(photos, capsys):
    draw_image(5).quantize(16).save(photos / "x.png", transparency=0)  # index 0 is in use
    assert_only(run(capsys, photos, "single")[1], "transparent")


# --- pairs


def test_names_without_a_partner(folders, capsys):
    draw_image(90).save(folders / "testA" / "only_a.png")
    draw_image(92).save(folders / "testB" / "only_b.png")
    status, problems, _, _ = run(capsys, folders, "aligned")
    assert status == 1
    assert_only(problems, "--phase test is not read", "only_a", "only_b", "partner")
    draw_image(93).save(folders / "trainB" / "1.jpg")
    status, problems, _, _ = run(capsys, folders, "aligned")
    assert status == 1 and len(problems) == 2
    assert "1.jpg" in problems[1] and "1.png" in problems[1] and "rename" in problems[1]
    assert run(capsys, folders, "unaligned")[0] == 0  # where names mean nothing


@pytest.mark.parametrize("mode", ["aligned", "unaligned"])
def test_a_folder_without_its_twin_or_without_images(folders, capsys, mode):
    write_images(folders / "valA", 1)
    for path in (folders / "testB").iterdir():
        path.unlink()
    status, problems, _, _ = run(capsys, folders, mode)
    assert status == 1 and len(problems) == 2
    assert "--phase test is not read" in problems[0] and "testB" in problems[0]
    assert "--phase val is not read" in problems[1] and "valB" in problems[1]


def test_pairs_of_two_sizes(folders, capsys):
    draw_image(90, 40, 32).save(folders / "trainB" / "2.png")
    status, problems, notes, _ = run(capsys, folders, "aligned")
    assert status == 0 and problems == []
    assert_only(notes, "trainA/2.png is 32x32", "trainB/2.png is 40x32")
    status, problems, _, _ = run(capsys, folders, "aligned", *NONE)
    assert status == 1
    assert_only(problems, "trainA/2.png is 32x32", "trainB/2.png is 40x32", "--preprocess")


def test_odd_width_of_side_by_side_images(aligned, capsys):
    draw_image(90, 63, 32).save(aligned / "train" / "odd.png")
    draw_image(91, 1, 32).save(aligned / "train" / "one.png")
    _, problems, _, _ = run(capsys, aligned, "aligned")
    assert len(problems) == 2
    assert "train/odd.png: odd width 63" in problems[0] and "too narrow" in problems[1]


# --- sizes


@pytest.mark.parametrize(
    ("size", "options", "problem"),
    [
        ((64, 64), ["--preprocess", "none"], "64x64: --netG unet_256 needs"),
        ((256, 256), ["--preprocess", "none"], None),
        ((20, 28), NONE, "20x28: --netD basic needs"),
        ((24, 28), NONE, None),
        ((8, 8), [*NONE, "--netD", "pixel"], None),
        ((4, 8), [*NONE, "--netD", "pixel"], "4x8: --netG resnet_6blocks needs"),
        ((30, 50), [*NONE, "--preprocess", "crop", "--crop_size", "32"],
         "30x50 is smaller than --crop_size 32"),
        ((32, 32), [*NONE, "--preprocess", "crop", "--crop_size", "32"], None),
        ((9, 9), ["--preprocess", "resize_and_crop"], None),
    ],
)  # fmt: skip
def test_sizes_that_the_options_cannot_use(tmp_path, capsys, size, options, problem):
    (tmp_path / "train").mkdir()
    draw_image(1, 2 * size[0], size[1]).save(tmp_path / "train" / "x.png")
    status, problems, _, _ = run(capsys, tmp_path, "aligned", *options)
    assert status == (problem is not None)
    assert bool(problem) == any("train/x.png" in line and problem in line for line in problems)


def test_test_images_meet_no_discriminator(folders, capsys):
    options = [*NONE, "--crop_size", "8", "--load_size", "8"]
    for side in "AB":
        draw_image(80 + ord(side), 8, 8).save(folders / f"test{side}" / "small.png")
    assert run(capsys, folders, "unaligned", *options)[0] == 0
    assert run(capsys, folders, "unaligned", "--phase", "test", *options)[0] == 1


def test_sizes_that_differ_in_a_batch(folders, capsys):
    draw_image(90, 48, 32).save(folders / "trainB" / "2.png")
    assert run(capsys, folders, "unaligned", *NONE, "--serial_batches")[0] == 0
    batch = ["--batch_size", "2", "--serial_batches"]
    status, problems, _, _ = run(capsys, folders, "unaligned", *NONE, *batch)
    assert status == 1
    assert_only(problems, "trainB/2.png: B is 48x32, and most are 32x32", "--batch_size 2")
    assert run(capsys, folders, "unaligned", *batch)[0] == 0


# --- the same image twice


def test_images_of_training_in_testing(folders, capsys):
    (folders / "testB" / "leak.png").write_bytes((folders / "trainB" / "1.png").read_bytes())
    with Image.open(folders / "trainA" / "3.png") as image:  # the same pixels in other bytes
        image.save(folders / "testA" / "2.bmp")
    status, problems, _, _ = run(capsys, folders, "unaligned")
    assert status == 1 and len(problems) == 2
    assert "testA/2.bmp of test" in problems[0] and "trainA/3.png of train" in problems[0]
    assert "testB/leak.png of test" in problems[1] and "trainB/1.png of train" in problems[1]


def test_copies_within_a_part_are_notes(folders, capsys):
    (folders / "trainA" / "9.png").write_bytes((folders / "trainA" / "1.png").read_bytes())
    status, problems, notes, last = run(capsys, folders, "unaligned")
    assert status == 0 and problems == [] and last.endswith("no problems, 1 note")
    assert_only(notes, "trainA/9.png is the same as", "trainA/1.png")


def test_a_pair_leaks_as_a_whole(folders, aligned, capsys):
    for side in "AB":
        data = (folders / f"train{side}" / "1.png").read_bytes()
        (folders / f"test{side}" / "7.png").write_bytes(data)
    (folders / "testA" / "1.png").write_bytes((folders / "trainA" / "2.png").read_bytes())
    _, problems, _, _ = run(capsys, folders, "aligned")  # a label map may well come twice
    assert_only(problems, "testA/7.png of test", "trainA/1.png of train")
    with Image.open(aligned / "train" / "2.png") as image:
        image.save(aligned / "test" / "new.tif")
    assert_only(run(capsys, aligned, "aligned")[1], "test/new.tif of test", "train/2.png of train")


# --- somebody's own dataset


def template(capsys, root, *more):
    return run(capsys, root, "template", "--model", "pix2pix", *more)


def test_a_plug_in_is_read_through_itself(aligned, capsys, monkeypatch):
    (aligned / "train" / "1.png").write_text("no image")
    (aligned / "test" / "leak.png").write_bytes((aligned / "train" / "2.png").read_bytes())
    draw_image(9).convert("CMYK").save(aligned / "train" / "9.jpg")
    for _ in range(2):
        status, problems, _, _ = template(capsys, aligned)
        assert status == 1 and len(problems) == 3
        assert "test/leak.png of test" in problems[0] and "train/9.jpg: CMYK" in problems[1]
        assert "cannot read" in problems[2] and "train/1.png" in problems[2]
        monkeypatch.setattr(TemplateDataset, "to_cache", lambda self: ())  # knows no cache


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        ([], "must be a dict, not a list"),
        ({"A": torch.zeros(3, 256, 256)}, "B is no tensor (channels, height, width)"),
        ({"A": torch.zeros(1, 256, 256), "B": torch.zeros(3, 256, 256)}, "A has 1 channels"),
        ({"A": torch.zeros(3, 256, 256), "B": torch.ones(3, 256, 256) * 2}, "B is not in [-1, 1]"),
        (
            {"A": torch.zeros(3, 256, 256), "B": torch.zeros(3, 250, 256)},
            "B is 256x250: --netG unet_256 needs",
        ),
        (ZeroDivisionError("oh"), "data/template_dataset.py fails: ZeroDivisionError"),
        (UserError("replace it"), "replace it"),
    ],
)
def test_samples_that_no_model_can_take(aligned, capsys, monkeypatch, sample, problem):
    def give(self, index):
        if isinstance(sample, Exception):
            raise sample
        return sample

    monkeypatch.setattr(TemplateDataset, "__getitem__", give)
    monkeypatch.setattr(TemplateDataset, "__len__", lambda self: 1)
    status, problems, _, _ = template(capsys, aligned)
    assert status == 1 and all(problem in line for line in problems)
    once = str(sample) == "replace it" or "--netG" in problem  # testing takes any size
    assert len(problems) == (1 if once else 2)  # train, test


# --- options


@pytest.mark.parametrize("mode", ["aligned", "unaligned", "colorization", "single"])
@pytest.mark.parametrize(
    "more", ["--load_size 64", "--crop_size 300", "--netG unet_256", "", "--output_nc 1"]
)
def test_what_nobody_gave_does_not_stop_the_check(folders, photos, capsys, mode, more):
    (folders / "train").symlink_to(folders / "trainA") if mode == "colorization" else None
    root = photos if mode == "single" else folders
    argv = ["--dataroot", str(root), "--dataset_mode", mode, "--gpu_ids", "-1"]
    if (mode, more) != ("colorization", "--output_nc 1"):  # which it cannot have
        argv += more.split()
    with suppress(SystemExit):  # with status 1 there may be problems
        check_dataset.main(argv)
    out = capsys.readouterr()
    assert " read as " in out.out and "error" not in out.err


def test_the_options_are_those_of_train_py(folders, capsys):
    def status_and_message(*argv):
        with pytest.raises(SystemExit) as stop:
            check_dataset.main(list(argv))
        return stop.value.code, capsys.readouterr().err

    code, message = status_and_message("--dataset_mode", "aligned", "--crop_sise", "3")
    assert code == 2 and "--crop_size" in message and "--dataroot" in message
    assert message.startswith("check_dataset.py: error: ")


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
def test_a_missing_dataset_is_a_mistake(tmp_path, mode):
    with pytest.raises(UserError, match="--dataroot"):
        check_dataset.main(["--dataroot", str(tmp_path / "no"), "--dataset_mode", mode, *HERE])


def test_max_dataset_size_limits_the_reading(folders, capsys):
    (folders / "trainA" / "3.png").write_text("no image")
    status, _, _, last = run(capsys, folders, "aligned", "--max_dataset_size", "2")
    assert status == 0 and last.startswith("8 files")


@pytest.mark.parametrize("mode", ["aligned", "single"])
def test_each_file_is_decoded_once(folders, photos, capsys, monkeypatch, mode):
    paths = []

    def noting(path, load=image_reader.read_image):
        paths.append(path)
        return load(path)

    monkeypatch.setattr(image_reader, "read_image", noting)
    run(capsys, folders if mode == "aligned" else photos, mode)
    assert len(paths) == len(set(paths)) == (10 if mode == "aligned" else 3)


# --- processes


def test_processes_find_what_one_process_finds(folders, capsys):
    (folders / "trainA" / "1.png").write_text("no image")
    (folders / "testA" / "1.png").write_bytes((folders / "trainA" / "2.png").read_bytes())
    alone = run(capsys, folders, "unaligned")
    assert alone[0] == 1 and len(alone[1]) == 2
    assert run(capsys, folders, "unaligned", "--num_threads", "2") == alone


def test_the_work_can_be_sent_to_processes_that_are_not_forked(aligned):
    argv = ["--dataroot", str(aligned), "--dataset_mode", "aligned", *HERE]
    opt = check_dataset.parse(argv)
    datasets, _ = check_dataset.build_all(opt)
    checks = check_dataset.Checks(opt, ("A", "B"))
    checks.tasks = [partial(checks.sample, "train", datasets["train"], 0)]
    assert pickle.loads(pickle.dumps(checks))[0] == checks[0]


def test_a_killed_process_is_a_mistake_not_a_good_dataset(aligned, capsys, monkeypatch):
    monkeypatch.setattr(
        TemplateDataset, "__getitem__", lambda self, index: os.kill(os.getpid(), signal.SIGKILL)
    )
    with pytest.raises(UserError, match="--num_threads"):
        template(capsys, aligned, "--num_threads", "1")


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
    Image.new("RGB", (3000, 3000)).save(tmp_path / "all.ppm")
    arguments = ["--dataroot", tmp_path, "--dataset_mode", "single", "--num_threads", "1"]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    deadline = time.monotonic() + 60
    workers: set[str] = set()
    while not workers and time.monotonic() < deadline:
        before = set(children(process.pid))
        time.sleep(0.5)  # importing torch starts a process of its own for a moment
        workers = before & set(children(process.pid))
    if end == signal.SIGINT:
        os.killpg(process.pid, end)  # as a terminal does
    else:
        process.kill()
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("", "")
    assert process.returncode == (130 if end == signal.SIGINT else -signal.SIGKILL)
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers and not any(map(alive, workers))


def test_as_a_program_a_missing_dataset_is_one_message_and_status_2(tmp_path):
    nowhere = tmp_path / "nowhere"
    argv = [sys.executable, SCRIPT, "--dataroot", nowhere, "--dataset_mode", "unaligned"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("check_dataset.py: error: ") and "Traceback" not in done.stderr
