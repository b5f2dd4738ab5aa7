"""The readers that are fuzzed: what a whole file looks like, and what reading it may do.

A reader may raise UserError (then nothing on the disk has changed) or take the file. Anything else
that leaves it is a crash.
"""

import argparse
import csv
import importlib.util
import io
import json
import os
import random
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_inputs as inputs
import numpy as np
import torch
from conftest import draw_image

from data import image_io
from models import networks
from models.networks import infer_options
from options.test_options import DEFAULTS, NETWORK, TestOptions
from options.train_options import TrainOptions
from scripts.unpack import unpack
from util import checkpoint
from util.checkpoint import train_state
from util.errors import UserError
from util.image_pool import ImagePool
from util.reports.loss_log import LossLog
from util.reports.training_page import TrainingPage
from util.run_record import read_options, save_options

SEEN = 300  # images, in the runs that resume


class Reader(NamedTuple):
    """One reader under test."""

    file: str  # what is read, relative to the folder
    seeds: Callable[[], list[bytes]]  # whole files
    make: Callable[[random.Random, list[bytes]], bytes]
    read: Callable[[Path], Any]  # given the folder
    share: float  # of all inputs
    writes: bool = False  # a reader that mends its file


def check(reader: Reader, folder: Path, data: bytes) -> bool:
    """Read one input in an empty folder; True where it was accepted.

    Raises:
        Exception: a crash; AssertionError where the disk has changed, or code has run.
    """
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    before = snapshot(folder)
    try:
        reader.read(folder)
        accepted = True
    except UserError as error:
        accepted = False
        assert len(str(error)) < 5000
    except SystemExit as error:
        assert error.code == 2
        accepted = False
    assert not (folder / "executed").exists() and not Path("executed").exists(), "code was run"
    if not (accepted and reader.writes):
        assert snapshot(folder) == before, "the disk has changed"
    return accepted


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}


# ---- checkpoints -----------------------------------------------------------------------------


def bytes_of(value: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def small_net() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return networks.define_D(1, 1, "n_layers", 1, "batch")


@cache
def weights() -> list[bytes]:
    state = small_net().state_dict()
    old = {f"module.{key}": value for key, value in state.items()}
    return [
        bytes_of(state),
        bytes_of(dict(state)),
        bytes_of(old, _use_new_zipfile_serialization=False),
        bytes_of({"a": {"b": [1, 2.5, None, "c", (True, 2**70)]}, "c": torch.zeros(2)}),
    ]


def read_weights(folder: Path) -> None:
    net = small_net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    try:
        checkpoint.load_weights(net, folder / "a.pth", infer_options.differences)
    except UserError:
        after = net.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before), "half loaded"
        raise


class TinyModel:
    """What a training state is put back into."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.netD = small_net()
        self.optimizers = [torch.optim.Adam(self.netD.parameters(), 0.1)]
        self.schedulers = [torch.optim.lr_scheduler.StepLR(self.optimizers[0], 1)]
        self.pool = ImagePool(2)
        self.steps = 0

    def named_networks(self) -> dict[str, torch.nn.Module]:
        return {"D": self.netD}

    def step(self) -> None:
        loss = self.netD(torch.zeros(1, 1, 16, 16)).mean() + torch.rand(()) * 0
        self.optimizers[0].zero_grad()
        loss.backward()
        self.optimizers[0].step()
        self.schedulers[0].step()
        self.steps = self.steps + 1


@cache
def run_options() -> dict[str, Any]:
    opt = TrainOptions().parse(["--dataroot", "x", "--gpu_ids", "-1", "--model", "pix2pix"])
    values = {key: value for key, value in vars(opt).items() if key != "device"}
    return {key: v for key, v in values.items() if isinstance(v, (bool, int, float, str))}


@cache
def training_states() -> list[bytes]:
    random.seed(0)
    model = TinyModel()
    numbers = train_state.before_training(model)
    model.step()
    model.pool.query(torch.zeros(1, 1, 2, 2))
    state = train_state.collect(model, numbers, model.device)
    progress = dict.fromkeys(checkpoint.COUNTERS, 1)
    state |= {
        "progress": progress,
        "options": run_options(),
        "job": "",
        "format": checkpoint.FORMAT,
    }
    return [bytes_of(state), bytes_of(state, _use_new_zipfile_serialization=False), weights()[0]]


def read_training_state(folder: Path) -> None:
    state = checkpoint.load_train_state(folder, "latest")
    model = TinyModel()
    train_state.restore(model, state)


# ---- options ---------------------------------------------------------------------------------


@cache
def options_files() -> list[bytes]:
    opt = argparse.Namespace(**run_options(), device=torch.device("cpu"))
    folder = Path("seed_options")
    folder.mkdir(exist_ok=True)
    save_options(opt, folder)
    return [(folder / "train_opt.json").read_bytes()]


@cache
def accepts() -> Callable[[str, Any], bool]:
    return TestOptions().build_parser(["--dataroot", "x", "--name", "no_such"]).accepts


def read_saved_options(folder: Path) -> None:
    values = read_options(folder, (*NETWORK, *DEFAULTS, "model"), accepts())
    json.dumps(values)


def parse_test_options(folder: Path) -> None:
    argv = ["--dataroot", "x", "--checkpoints_dir", str(folder), "--name", "n", "--gpu_ids", "-1"]
    opt = TestOptions().parse(argv)
    assert opt.ngf <= 65536
    TestOptions().parse([*argv, "--model_suffix", "_B"])


# ---- images ----------------------------------------------------------------------------------


@cache
def images() -> list[bytes]:
    made = []
    small = draw_image(3, 19, 13)
    for kind, how in FORMATS:
        file = io.BytesIO()
        mode = how.pop("mode", None) if (how := dict(how)) else None
        (small.convert(mode) if mode else small).save(file, format=kind, **how)
        made.append(file.getvalue())
    folder = Path("seed_image")
    folder.mkdir(exist_ok=True)
    bands = np.dstack([np.asarray(small), np.asarray(small)]) * np.uint16(257)
    kinds = [(bands[..., :4], "a.png")]
    if importlib.util.find_spec("tifffile"):  # optional
        kinds += [(bands, "b.tif"), (bands[..., :2].astype(np.float64), "c.tif")]
    for array, name in kinds:
        image_io.write_image(folder / name, array)
        made.append((folder / name).read_bytes())
    return made


@cache
def arrays() -> list[bytes]:
    made = []
    for dtype, shape in (("u1", (9, 7)), (">i2", (9, 7, 3)), ("f4", (9, 7, 5)), ("f8", (9, 7, 1))):
        file = io.BytesIO()
        np.save(file, np.arange(np.prod(shape)).reshape(shape).astype(dtype))
        made.append(file.getvalue())
    return made


EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
FORMATS = (
    ("PNG", {}), ("PNG", {"mode": "P"}), ("PNG", {"mode": "I;16"}), ("PNG", {"mode": "1"}),
    ("PNG", {"mode": "LA", "exif": EXIF[6:]}), ("JPEG", {}), ("JPEG", {"exif": EXIF}),
    ("JPEG", {"mode": "CMYK", "progressive": True}), ("GIF", {}), ("BMP", {}),
    ("BMP", {"mode": "P"}),
    ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"mode": "I;16"}),
    ("TIFF", {"mode": "F"}), ("TIFF", {"compression": "jpeg"}), ("WEBP", {}),
    ("WEBP", {"lossless": True}), ("PPM", {}), ("PPM", {"mode": "1"}), ("EPS", {}),
)  # fmt: skip


def read_image(folder: Path) -> None:
    read_any_image(str(folder / "a.png"))


def read_array(folder: Path) -> None:
    read_any_image(str(folder / "a.npy"))


def read_any_image(path: str) -> None:
    header, image = image_io.read_header(path), image_io.read_image(path)
    array = np.asarray(image)
    assert array.shape[0] * array.shape[1] <= 180_000_000 and array.dtype == header.dtype
    assert image_io.pages(path)


# ---- logs and pages --------------------------------------------------------------------------


@cache
def logs() -> list[bytes]:
    folder = Path("seed_log")
    folder.mkdir(exist_ok=True)
    log = LossLog(folder)
    for i in range(1, 6):
        log.add(i, 100, 100 * i, 0.1, 0.2, {"G": 0.5 * i, "D,\n\"'": -1.0})
    page = TrainingPage(folder / "web", "t")
    for i in range(1, 6):
        page.add_losses(i, 100 * i, {"G": 0.5 * i})
        page.add_visuals(i, 100 * i, {}, ["a"])
    names = ("losses.csv", "loss_log.txt", "web/data.js")
    return [(folder / name).read_bytes() for name in names]


def resume_logging(folder: Path) -> None:
    (folder / "loss_log.txt").touch()
    (folder / "losses.csv").touch()
    log = LossLog(folder, (3, 100, SEEN))
    log.add(4, 100, SEEN + 100, 0.1, 0.2, {"G": 1.0})
    with open(folder / "losses.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["total_iters"]) > SEEN for row in rows] == [False] * (len(rows) - 1) + [True]
    assert all(None not in row for row in rows) and rows[-1]["G"] == "1.0"
    last = (folder / "loss_log.txt").read_bytes().splitlines()[-1]
    assert last == b"(epoch: 4, iters: 100, time: 0.100, data: 0.200) G: 1.000"


def resume_page(folder: Path) -> None:
    TrainingPage(folder / "web", "t", resume_at=SEEN).add_losses(4, SEEN + 100, {"G": 1.0})
    lines = (folder / "web/data.js").read_bytes().split(b"\n")
    assert lines.pop() == b""
    entries = [json.loads(line[4:-2]) for line in lines]
    assert [entry["total_iters"] > SEEN for entry in entries] == [False] * (len(entries) - 1) + [
        True
    ]
    for entry in entries:  # as training.js takes them apart
        assert all(isinstance(name, str) for name, _ in entry.get("losses", []))
        assert all(url.startswith("images/") for _, url in entry.get("visuals", []))


# ---- archives --------------------------------------------------------------------------------


@cache
def zips() -> list[bytes]:
    members = {"set/trainA/1.png": b"a" * 50, "set/trainB/2.png": b"b" * 5000, "set/empty": b""}
    return [inputs.zip_of(members), inputs.zip_of(members, zipfile.ZIP_DEFLATED)]


@cache
def tars() -> list[bytes]:
    made = []
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz", format=form, compresslevel=1) as archive:
            for name in ("set/a.png", "set/" + "long/" * 15 + "b.png"):
                info = tarfile.TarInfo(name)
                info.size = 30
                archive.addfile(info, io.BytesIO(b"x" * 30))
        made.append(file.getvalue())
    return made


def unpack_inside(suffix: str, folder: Path) -> None:
    before = set(folder.parent.iterdir())
    try:
        unpack(folder / "archive", folder / "set", suffix)
        assert (folder / "set").is_dir()
    finally:
        assert set(os.listdir(folder)) <= {"archive", "set"}
        assert set(folder.parent.iterdir()) == before, "a file outside"


def table(file: str, place: int, make: Callable, read: Callable) -> Reader:
    """A reader of a file that a resumed run mends."""
    return Reader(file, lambda: logs()[place : place + 1], make, read, 0.05, True)


def archive(suffix: str, seeds: Callable, make: Callable, share: float) -> Reader:
    return Reader("archive", seeds, make, partial(unpack_inside, suffix), share, True)


READERS = {
    "weights": Reader("a.pth", weights, inputs.checkpoint, read_weights, 0.25),
    "training state": Reader(
        "latest_train_state.pth", training_states, inputs.checkpoint, read_training_state, 0.13
    ),
    "options file": Reader(
        "train_opt.json", options_files, inputs.options, read_saved_options, 0.15
    ),
    "test.py options": Reader(
        "n/train_opt.json", options_files, inputs.options, parse_test_options, 0.01
    ),
    "image": Reader("a.png", images, inputs.image, read_image, 0.2),
    "array": Reader("a.npy", arrays, inputs.image, read_array, 0.2),
    "losses.csv": table("losses.csv", 0, inputs.table, resume_logging),
    "loss_log.txt": table("loss_log.txt", 1, inputs.table, resume_logging),
    "web/data.js": table("web/data.js", 2, inputs.page_data, resume_page),
    "zip": archive(".zip", zips, inputs.zip_archive, 0.05),
    "tar.gz": archive(".tar.gz", tars, inputs.tar_archive, 0.06),
}
