"""Hostile files and names: only a UserError leaves a reader, and no name can pose as our output.

The fuzzers run a few hundred inputs per reader here; tests/stress/fuzz.py runs the same by the
hundred thousand, and docs/robustness.md has what they found.
"""

import gzip
import io
import json
import logging
import os
import pickle
import sys
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import fuzz_inputs as inputs
import fuzz_readers
import numpy as np
import pytest
import torch
from conftest import draw_image, write_images
from fuzz_readers import READERS, check, small_net
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import test
from data import image_io
from data.image_folder import make_dataset
from data.image_io import load_image
from scripts import unpack as unpacking
from scripts.unpack import unpack
from util import checkpoint, distributed
from util.errors import UserError, one_message
from util.reports.loss_log import LossLog
from util.reports.results_page import ResultsPage
from util.reports.training_page import TrainingPage
from util.run_record import save_options

EXAMPLES = {"test.py options": 60, "weights": 250, "training state": 150}


# ---- any input -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_only_a_user_error_leaves_a_reader(name, here, tmp_path_factory):
    reader = READERS[name]
    seeds = reader.seeds()

    @settings(
        max_examples=EXAMPLES.get(name, 200),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=True))
    def read_any(rng):
        folder = tmp_path_factory.mktemp("box") / "folder"
        folder.mkdir()
        check(reader, folder, reader.make(rng, seeds))

    read_any()


@pytest.mark.parametrize("name", READERS)
def test_whole_files_are_accepted(name, here, tmp_path):
    """So the fuzzers start from what the readers take (but for files for other readers)."""
    reader = READERS[name]
    taken = []
    for i, seed in enumerate(reader.seeds()):
        (tmp_path / str(i)).mkdir()
        taken.append(check(reader, tmp_path / str(i), seed))
    no_network, old_state, postscript = [3], [1, 2], [len(fuzz_readers.FORMATS) - 1]
    refused = {"weights": no_network, "training state": old_state, "image": postscript}
    assert [i for i, ok in enumerate(taken) if not ok] == refused.get(name, [])


# ---- checkpoints -----------------------------------------------------------------------------

MODULES = b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb."
CODE = b"cos\nsystem\n(X\x0e\x00\x00\x00touch executedtR."
OLD_HEADER = (0x1950A86A20F9469CFC6C, 1001, {})  # of files from before torch 1.6
PICKLES = {
    "code": b"\x80\x02" + CODE,
    "tuples that take forever to hash": b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"K\x01s.",
    "tuples that overflow the stack": b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.",
    "four gigabytes": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R.",
    "an attribute in place of a method": b"\x80\x02" + MODULES,
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_that_hurt_are_refused_in_no_time(kind, form, here):
    pickles = [*map(pickle.dumps, OLD_HEADER), PICKLES[kind], pickle.dumps([])]
    (here / "a.pth").write_bytes(
        inputs.torch_zip(PICKLES[kind]) if form == "zip" else b"".join(pickles)
    )
    start = time.process_time()
    with pytest.raises(UserError, match="a.pth"):
        checkpoint.load_weights(small_net(), here / "a.pth")
    assert time.process_time() - start < 5
    assert os.listdir(here) == ["a.pth"]


def test_a_checkpoint_that_swells_is_refused(here):
    swelling = inputs.torch_zip(b"\x80\x02}.", (bytes(1 << 20),), zipfile.ZIP_DEFLATED)
    (here / "a.pth").write_bytes(swelling)
    with pytest.raises(UserError, match="a.pth"):
        checkpoint.load(here / "a.pth")


ODD = {
    "complex": lambda w: w.to(torch.complex64),
    "whole numbers": lambda w: w.long(),
    "sparse": lambda w: w.to_sparse(),
    "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.quint8),
    "without values": lambda w: w.to("meta"),
    "huge": lambda w: torch.zeros(1).expand(10**6, 10**6),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")
def test_weights_of_an_odd_kind_are_one_message(kind, here):
    state = small_net().state_dict()
    key = next(iter(state))
    torch.save(state | {key: ODD[kind](state[key])}, here / "a.pth")
    with pytest.raises(UserError, match="a.pth"):
        checkpoint.load_weights(small_net(), here / "a.pth")


def a_number_for_a_network(state):
    state["ranks"][0]["numbers"]["netD"] = 1


def a_tensor_for_a_table(state):
    state["ranks"] = 2 * [torch.zeros(1).expand(10**6, 10**6)]


def a_rank_without_numbers(state):
    del state["ranks"][0]["numbers"]


def moments_of_another_optimizer(state):
    state["objects"]["optimizers.0"]["param_groups"] *= 2


def images_that_are_none(state):
    state["ranks"][0]["objects"]["pool"] = {"images": 3}


WRONG_STATES = (
    a_number_for_a_network, a_tensor_for_a_table, a_rank_without_numbers,
    moments_of_another_optimizer, images_that_are_none,
)  # fmt: skip


@pytest.mark.parametrize("damage", WRONG_STATES)
def test_a_training_state_that_does_not_fit_is_one_message(damage, here):
    state = torch.load(io.BytesIO(fuzz_readers.training_states()[0]), weights_only=True)
    damage(state)
    torch.save(state, here / "latest_train_state.pth")
    with pytest.raises(UserError, match="training state"):
        fuzz_readers.read_training_state(here)


# ---- images ----------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A PNG that declares a size, and has next to no pixels."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return inputs.png_with_sums(bytes(data))


def huge(path):
    path.write_bytes(png(60_000, 60_000))


def postscript(path):
    with open(path, "wb") as file:
        draw_image(1).save(file, "EPS")


IMAGES = {
    huge: r"a.png: .*3600000000 pixels.* make it smaller",
    postscript: "no image file of a known format",  # and is not run
    getattr(os, "mkfifo", None): "a pipe or a device",  # and does not hang
}


@pytest.mark.parametrize(("make", "message"), IMAGES.items())
def test_images_that_hurt_are_refused_without_reading_them(make, message, tmp_path):
    if make is None:
        pytest.skip("needs named pipes")
    make(tmp_path / "a.png")
    tracemalloc.start()
    with pytest.raises(UserError, match=message):
        load_image(str(tmp_path / "a.png"))
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_16_bits_are_scaled_exactly(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "a.png")
    grey = np.asarray(image_io.load_image(str(tmp_path / "a.png"), "L")).astype(int)
    assert np.array_equal(grey, (2 * values.astype(int) + 257) // 514)  # rounded in whole numbers


def test_links_to_themselves_and_deep_folders_are_walked(tmp_path, monkeypatch):
    write_images(tmp_path / "set", 1)
    os.symlink("loop", tmp_path / "set" / "loop")
    os.symlink("loop.png", tmp_path / "set" / "loop.png")
    monkeypatch.chdir(tmp_path / "set")
    depth = 1200  # more than Python's stack has room for
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    try:
        os.chdir(tmp_path)
        found = [os.path.basename(path) for path in make_dataset("set")]
        assert found == ["1.png", "loop.png"]
        with pytest.raises(UserError, match="loop.png"):
            load_image("set/loop.png")
    finally:  # pytest's own cleaning up would run out of stack
        os.chdir(tmp_path / "set")
        for _ in range(depth):
            os.chdir("d")
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")


# ---- options, logs, pages --------------------------------------------------------------------


OPTIONS = {
    lambda: os.symlink("/dev/zero", "train_opt.json"): "train_opt.json cannot be used",
    lambda: Path("train_opt.json").write_text('{"ngf": 1000000000}'): "ngf cannot be 1000000000",
}


@pytest.mark.parametrize(("make", "message"), OPTIONS.items(), ids=["endless", "a huge network"])
def test_options_that_only_fill_the_memory_are_refused(make, message, here):
    make()
    with pytest.raises(UserError, match=message):
        fuzz_readers.read_saved_options(here)


TABLES = {
    "a field without end": b'epoch,iters,total_iters,time,data,G\n1,1,100,0,0,"' + b"x" * 200_000,
    "a number without end": b"epoch,iters,total_iters,time,data,G\n1,1,%b,0,0,1\n" % (b"9" * 5000),
    "no header": b'"' + b"x" * 200_000 + b'"\n1,2\n',
    "a row cut off": b"epoch,iters,total_iters,time,data,G\n1,1,100,0,0,1\n1,1,2",
    "zeros": b"epoch,iters,total_iters,time,data,G\n1,1,100,0,0,1\n" + bytes(500),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_a_damaged_table_keeps_its_whole_rows(kind, here):
    Path("losses.csv").write_bytes(TABLES[kind])
    fuzz_readers.resume_logging(here)
    kept = [row.split(",")[2] for row in Path("losses.csv").read_text().splitlines()[1:]]
    assert kept == (["100", "400"] if kind in ("a row cut off", "zeros") else ["400"])


ENTRIES = [
    '{"epoch": 1, "total_iters": ' + "9" * 4000 + "}",
    "[" * 100_000,
    '{"epoch": 1, "total_iters": 1, "losses": 5}',
    '{"epoch": 1, "total_iters": 1, "losses": [["G", "x"]]}',
    '{"epoch": 1, "total_iters": 1, "visuals": [["a", "javascript:alert(1)"]], "captions": []}',
    '{"epoch": 1, "total_iters": 1, "visuals": []}',
    '{"epoch": 1, "total_iters": 1, "__proto__": {"visuals": 5}}',
]


@pytest.mark.parametrize("entry", ENTRIES, ids=range(len(ENTRIES)))
def test_entries_that_the_page_cannot_draw_are_dropped(entry, here):
    page = TrainingPage(Path("web"), "t")
    page.add_losses(1, 100, {"G": 1.0})
    with open("web/data.js", "a") as file:
        file.write(f"add({entry});\n")
    before = Path("web/data.js").read_text().splitlines()[:1]
    TrainingPage(Path("web"), "t", resume_at=300)
    assert Path("web/data.js").read_text().splitlines() == before


# ---- archives --------------------------------------------------------------------------------


def free(monkeypatch, room: int) -> None:
    usage = lambda folder: type("Usage", (), {"free": room})  # noqa: E731
    monkeypatch.setattr(unpacking.shutil, "disk_usage", usage)


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def info(name: str, size: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size = size
    return made


BOMBS = {
    ".zip": lambda: inputs.zip_of({"a": bytes(2_000_000)}, zipfile.ZIP_DEFLATED),
    ".tar.gz": lambda: tar_of((info("a", 2_000_000), bytes(2_000_000))),
}


@pytest.mark.parametrize("suffix", BOMBS)
def test_an_archive_larger_than_the_disk_is_refused_before_it_is_written(suffix, here, monkeypatch):
    Path("archive").write_bytes(BOMBS[suffix]())
    free(monkeypatch, 1_000_000)
    with pytest.raises(UserError, match="more than 900,000 bytes"):
        unpack(here / "archive", here / "set", suffix)
    assert os.listdir(here) == ["archive"]
    free(monkeypatch, 10_000_000)
    unpack(here / "archive", here / "set", suffix)
    assert (here / "set/a").stat().st_size == 2_000_000


def test_a_false_header_of_a_tar_does_not_fill_the_memory(here):
    header = bytearray(info("a", 0).tobuf(tarfile.GNU_FORMAT)[:512])
    header[156:157] = tarfile.GNUTYPE_LONGNAME
    header[124:136] = tarfile.itn(50_000_000, 12, tarfile.GNU_FORMAT)
    data = inputs._with_checksum(header) + bytes(51_000_000)
    Path("archive").write_bytes(gzip.compress(data, 1))
    tracemalloc.start()
    with pytest.raises(UserError, match="impossible size"):
        unpack(here / "archive", here / "set", ".tar.gz")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def negative_pax_size() -> bytes:
    pax = tarfile.TarInfo("a")
    pax.pax_headers = {"size": "-1024"}
    return pax.create_pax_header(pax.get_info(), "utf-8")


def negative_sparse_size() -> bytes:
    first = info("a", 0).tobuf(tarfile.GNU_FORMAT)
    header = bytearray(first[:512])
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[124:136] = tarfile.itn(-512, 12, tarfile.GNU_FORMAT)
    return first + inputs._with_checksum(header)


@pytest.mark.parametrize("headers", [negative_pax_size, negative_sparse_size])
def test_a_tar_that_leads_back_to_an_earlier_header_ends(headers, here):
    Path("archive").write_bytes(gzip.compress(headers() + bytes(1024)))
    with pytest.raises(UserError):
        unpack(here / "archive", here / "set", ".tar.gz")


@pytest.mark.parametrize("names", [["a", "a/b"], ["a/b", "a"], ["n" * 300], ["."], ["x", "."]])
def test_names_that_cannot_be_written_are_one_message(names, here):
    Path("archive").write_bytes(inputs.zip_of(dict.fromkeys(names, b"x")))
    with pytest.raises(UserError):
        unpack(here / "archive", here / "set", ".zip")
    assert os.listdir(here) == ["archive"]


# ---- names that inject -----------------------------------------------------------------------

NAMES = {
    "newline": "a\ntrain.py: error: all is lost",
    "carriage return": "a\rtrain.py: error: all is lost",
    "escape": "a\x1b[2J\x1b]0;title\x07",
    "one byte escape": "a\x9b2J",
    "bidi": "a\u202egnp.exe",
    "line separator": "a\u2028b\u0085c",
    "not unicode": os.fsdecode(b"a\xff"),
}
SPOKEN = {
    "print0": lambda text: distributed.print0(text),
    "print_error_once": lambda text: distributed.print_error_once(f"train.py: error: {text}"),
    "small programs": lambda text: _end_in(UserError(text)),
}


def _end_in(error: UserError) -> None:
    with pytest.raises(SystemExit), one_message():
        raise error


def is_harmless(text: str) -> bool:
    """Whether a terminal shows every character, in this order, or the line ends."""
    shown = text.replace("\n", "")
    return all(c.isprintable() or 0xDC80 <= ord(c) <= 0xDCFF for c in shown)


@pytest.mark.parametrize("how", SPOKEN)
@pytest.mark.parametrize("kind", NAMES)
def test_a_name_cannot_drive_the_terminal_or_fake_a_line(kind, how, capfd, monkeypatch):
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stdout", heard)
    monkeypatch.setattr(sys, "stderr", heard)
    SPOKEN[how](f"cannot read {NAMES[kind]}; remove it")
    said = heard.getvalue()
    assert is_harmless(said) and "remove it" in said
    first, *others = said.removesuffix("\n").split("\n")
    assert all(line.startswith("  ") for line in others)  # ours begin in the first column


def test_our_own_lines_stay_lines(capsys):
    distributed.print0("several\nlines")
    assert capsys.readouterr().out == "several\n  lines\n"


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_in_the_message_of_a_reader_is_one_line(kind, tmp_path):
    path = tmp_path / f"{NAMES[kind]}.png"
    path.write_bytes(b"no image")
    with pytest.raises(UserError) as error:
        load_image(str(path))
    assert "\n" not in str(error.value) and is_harmless(str(error.value))
    with pytest.raises(UserError) as error:
        make_dataset(str(tmp_path / "missing"))
    assert "\n" not in str(error.value) and is_harmless(str(error.value))


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_cannot_fake_a_line_of_a_log_or_of_the_options(kind, here):
    log = LossLog(here)
    log.add(1, 1, 1, 0.0, 0.0, {NAMES[kind]: 1.0})
    log.add(1, 2, 2, 0.0, 0.0, {NAMES[kind]: 2.0})
    lines = Path("loss_log.txt").read_bytes().split(b"\n")
    assert len(lines) == 4 and all(line.startswith(b"(epoch: 1, iters: ") for line in lines[1:3])
    opt = fuzz_readers.argparse.Namespace(isTrain=True, name=NAMES[kind])
    save_options(opt, here)
    assert len(Path("train_opt.txt").read_bytes().split(b"\n")) == 5
    assert json.loads(Path("train_opt.json").read_text())["name"] == NAMES[kind]


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_stays_a_text_in_the_pages(kind, tmp_path, caplog):
    name = NAMES[kind] + "</script><img src=x>"
    page = TrainingPage(tmp_path / "web", name, {name: name})
    page.add_losses(1, 1, {name: 1.0})
    page.add_visuals(1, 1, {name: np.zeros((2, 2, 3), np.uint8)}, [name])
    lines = (tmp_path / "web/data.js").read_bytes().split(b"\n")
    assert len(lines) == 3 and all(byte < 128 for line in lines for byte in line)
    assert [p.parent.name for p in (tmp_path / "web").rglob("*.png")] == ["images"]
    with ResultsPage(tmp_path / "results", name) as results:
        results.add(name, {name: "a.png"})
    for shell in tmp_path.rglob("index.html"):
        assert b"<img src=x>" not in shell.read_bytes()
    with caplog.at_level(logging.WARNING):
        (tmp_path / "web").rename(tmp_path / NAMES["newline"])
        page.add_losses(1, 2, {name: 1.0})
    assert all(is_harmless(record.getMessage()) for record in caplog.records)


def test_a_folder_of_hostile_names_is_tested_from_end_to_end(here, capsys):
    """Results inside their folder, one file for each image."""
    write_images(here / "set", 1)
    for i, kind in enumerate(NAMES):
        draw_image(i).save(here / "set" / "new.png")
        (here / "set/new.png").rename(here / "set" / f"{NAMES[kind]}.png")
    (here / "set/1.png").rename(here / "set" / "<script>alert(1)<b>'\"&..%2e%2e%2f.png")
    argv = ["--dataroot", "set", "--name", "n", "--gpu_ids", "-1", "--ngf", "4", "--netG"]
    argv += ["resnet_6blocks", "--crop_size", "32", "--no_dropout"]
    weights = fuzz_readers.networks.define_G(3, 3, 4, "resnet_6blocks", "instance", False)
    (here / "checkpoints/n").mkdir(parents=True)
    checkpoint.save_weights(weights, here / "checkpoints/n/latest_net_G.pth")
    test.main(argv)
    said = capsys.readouterr()
    assert is_harmless(said.out) and is_harmless(said.err)
    written = [p for p in (here / "results").rglob("*.png")]
    assert len(written) == 2 * (len(NAMES) + 1)
    assert {p.parent for p in written} == {here / "results/n/test_latest/images"}
    assert set(os.listdir(here)) == {"set", "checkpoints", "results"}
