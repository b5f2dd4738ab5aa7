"""The pages as files: what an update costs, what a resume keeps, what reaches the HTML."""

import base64
import hashlib
import json
import math
import os
import tracemalloc
from argparse import Namespace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import torch
from PIL import Image

from data.outputs import Outputs
from util.errors import UserError
from util.reports.results_page import Results, ResultsPage
from util.reports.training_page import TrainingPage

HOSTILE = """<img src=x onerror=alert(1)>"'&</script><script>alert(2)</script><!--\u2028.png"""
NOT_UNICODE = os.fsdecode(b"caf\xe9.png")
IMAGE = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)


class Html(HTMLParser):
    """Tags, their attributes and the text of a page, as a browser sees them."""

    def __init__(self, page: Path):
        super().__init__()
        self.tags, self.text, self.scripts = [], [], []
        self.in_script = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.in_script = tag == "script"

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_data(self, data):
        self.text.append(data)
        if self.in_script:
            self.scripts.append(data)

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attrs[name] for found, attrs in self.tags if found == tag and name in attrs]


def entries(web: Path) -> list[dict]:
    lines = (web / "data.js").read_text(encoding="ascii").splitlines()
    assert all(line.startswith("add(") and line.endswith(");") for line in lines)
    return [json.loads(line[4:-2], parse_constant=pytest.fail) for line in lines]


def file_at(folder: Path, address: str) -> Path:
    return folder / os.fsdecode(unquote_to_bytes(address))


def one_epoch(page: TrainingPage, epoch: int) -> None:
    page.add_losses(epoch, 100 * epoch, {"G": 0.5})
    page.add_visuals(epoch, 100 * epoch, {"fake_B": IMAGE})


# ---- cost ------------------------------------------------------------------------------------


def bytes_moved() -> int:
    """Bytes that this process has read and written so far."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"]) + int(counters["wchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes by Linux's /proc")
def test_epoch_1000_costs_what_epoch_1_cost(tmp_path):
    one_epoch(TrainingPage(tmp_path / "warm_up", "t"), 1)  # modules are read on their first use
    page = TrainingPage(tmp_path / "web", "t")
    cost = {}
    for epoch in range(1, 1001):
        before = bytes_moved()
        one_epoch(page, epoch)
        cost[epoch] = bytes_moved() - before
    assert len(entries(tmp_path / "web")) == 2000  # one line for each update
    assert abs(cost[1000] - cost[1]) < 32  # a few more digits


def test_results_page_does_not_gather_rows_in_memory(tmp_path):
    with ResultsPage(tmp_path, "t") as page:
        page.add("warm up", {"fake": "x.png"})
        tracemalloc.start()
        for i in range(2000):
            page.add(f"{i}" * 20, {"real": f"{i}_real.png", "fake": f"{i}_fake.png"})
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    written = (tmp_path / "index.html").stat().st_size
    assert written > 500_000 and grown < 50_000


# ---- entries ---------------------------------------------------------------------------------


def test_losses_and_visuals_become_entries(tmp_path):
    page = TrainingPage(tmp_path, "t")
    page.add_losses(3, 400, {"G_GAN": np.float32(0.7), "D": math.nan, "G": -math.inf})
    page.add_visuals(3, 400, {"real_A": IMAGE}, ["a/1.jpg"])
    page.add_visuals(3, 500, {"real_A": 255 - IMAGE}, ["a/2.jpg"])  # takes the place of the first
    losses, _, visuals = entries(tmp_path)
    curves = [["G_GAN", 0.7], ["D", None], ["G", None]]
    assert losses == {"epoch": 3, "total_iters": 400, "losses": curves}
    address = "images/epoch003_real_A.png"
    assert visuals["visuals"] == [["real_A", address]] and visuals["captions"] == ["a/2.jpg"]
    assert list((tmp_path / "images").iterdir()) == [tmp_path / address]
    with Image.open(tmp_path / address) as image:
        assert np.array_equal(np.asarray(image), 255 - IMAGE)


def test_resume_keeps_what_was_seen_and_a_new_run_nothing(tmp_path):
    page = TrainingPage(tmp_path, "t")
    for epoch in range(1, 6):
        one_epoch(page, epoch)
    one_epoch(TrainingPage(tmp_path, "t", resume_at=300), 4)
    seen = [entry["total_iters"] for entry in entries(tmp_path)]
    assert seen == [100, 100, 200, 200, 300, 300, 400, 400]
    TrainingPage(tmp_path, "t")
    TrainingPage(tmp_path / "other", "t", resume_at=500)  # of a run that had no page
    assert entries(tmp_path) == entries(tmp_path / "other") == []


DAMAGED = [
    b'add({"epoch": 3, "total_it',
    b"\0" * 40,
    b"add([]);\n",
    b'add({"epoch": 1, "total_iters": 1, "losses": [["G", 01]]});\n',
    b'add({"epoch": 1, "total_iters": 1, "visuals": [["G", "javascript:x"]], "captions": []});\n',
]


@pytest.mark.parametrize("damage", DAMAGED, ids=range(len(DAMAGED)))
def test_resume_drops_a_damaged_line_and_no_other(tmp_path, damage):
    """As a kill or a power cut leaves them; the numbers and names are the oddest that we write."""
    page = TrainingPage(tmp_path, "t")
    numbers = [math.nan, 0.0, -1.5e-300, 3.4e38, 1e16, 123456.0, 0.000123456, -7]
    page.add_losses(1, 10**12, {f"{HOSTILE}{n}\\\x00\x7fé😀": n for n in numbers})
    page.add_visuals(1, 0, {HOSTILE: IMAGE, "b": IMAGE}, [HOSTILE, NOT_UNICODE])
    page.add_visuals(1, 0, {})
    before = entries(tmp_path)
    with open(tmp_path / "data.js", "ab") as file:
        file.write(damage)
    TrainingPage(tmp_path, "t", resume_at=10**12)
    assert entries(tmp_path) == before and len(before) == 3


def test_images_are_as_wide_as_display_winsize_says(tmp_path):
    for options, width in (({"display_winsize": 9}, "9"), (None, "256")):
        TrainingPage(tmp_path, "t", options)
        assert Html(tmp_path / "index.html").attributes("body", "data-size") == [width]


# ---- the files of a test -----------------------------------------------------------------------


def grey(*levels: float) -> torch.Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def test_no_two_images_of_a_test_have_one_file(tmp_path):
    """Stems that are equal, and others that the name of a visual makes equal."""
    opt = Namespace(name="n", phase="test", epoch="1", display_winsize=9, aspect_ratio=1.0,
                    use_wandb=False, only_output=False, format=None, dataroot="here",
                    direction="AtoB")  # fmt: skip
    with Results(opt, tmp_path, Outputs(opt, {}, {})) as results:
        results.add(["x_real.png", "x.png"], {"A": grey(-1, -0.5), "real_A": grey(0, 0.25)})
        results.add(["sub/x.png"], {"A": grey(0.5), "real_A": grey(1)})
    levels = {p.name: np.asarray(Image.open(p)).mean() for p in (tmp_path / "images").iterdir()}
    assert levels == {
        "x_real_A.png": 0, "x_real_real_A.png": 128,
        "x_2_A.png": 64, "x_2_real_A.png": 159, "x_3_A.png": 191, "x_3_real_A.png": 255,
    }  # fmt: skip
    sources = Html(tmp_path / "index.html").attributes("img", "src")
    assert sorted(sources) == sorted(f"images/{name}" for name in levels)


def test_results_appear_whole_or_not_at_all(tmp_path):
    (tmp_path / "index.html").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with ResultsPage(tmp_path, "t") as page:
            page.add("1.jpg", {"fake": "1_fake.png"})
            raise KeyboardInterrupt
    assert (tmp_path / "index.html").read_text() == "old"
    with ResultsPage(tmp_path, "t") as page:
        page.add("1.jpg", {"fake": "1_fake.png"})
        assert (tmp_path / "index.html").read_text() == "old"
    assert "1.jpg" in Html(tmp_path / "index.html").text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html"]


# ---- hostile text ----------------------------------------------------------------------------


def test_training_page_escapes_every_text(tmp_path):
    page = TrainingPage(tmp_path, HOSTILE, {HOSTILE: HOSTILE, "name": NOT_UNICODE})
    page.add_losses(1, 1, {HOSTILE: 1.0})
    page.add_visuals(1, 1, {HOSTILE: IMAGE}, [HOSTILE, NOT_UNICODE])
    html = Html(tmp_path / "index.html")
    assert len(html.scripts) == 2 and not html.attributes("img", "src")
    assert html.text.count(HOSTILE) == 4  # title, heading, an option's name and value
    data = (tmp_path / "data.js").read_text(encoding="ascii")  # so no U+2028 either
    assert "<" not in data and ">" not in data
    losses, visuals = entries(tmp_path)
    assert losses["losses"] == [[HOSTILE, 1.0]]
    assert visuals["captions"] == [HOSTILE, NOT_UNICODE]


def test_results_page_escapes_every_text(tmp_path):
    names = [HOSTILE, NOT_UNICODE, "100% a#b?c.png", "sub folder/ü.png"]
    with ResultsPage(tmp_path, HOSTILE) as page:
        page.add(HOSTILE, {HOSTILE + str(i): name for i, name in enumerate(names)})
        page.add(NOT_UNICODE, {})
    html = Html(tmp_path / "index.html")
    assert not html.attributes("img", "onerror") and not html.attributes("script", "src")
    assert html.text.count(HOSTILE) == 3  # title, heading, row
    assert html.attributes("img", "alt") == [HOSTILE + str(i) for i in range(4)]
    sources = html.attributes("img", "src")
    assert [file_at(tmp_path, source) for source in sources] == [tmp_path / name for name in names]


def test_reserved_characters_in_the_name_of_a_visual(tmp_path):
    names = ["a/b", "a_b", "../../up", 'x:*?"<>|\\', "50%", "%35"]
    TrainingPage(tmp_path, "t").add_visuals(1, 1, dict.fromkeys(names, IMAGE))
    (entry,) = entries(tmp_path)
    files = [file_at(tmp_path, address) for _, address in entry["visuals"]]
    assert sorted(files) == sorted((tmp_path / "images").iterdir())
    assert len(set(files)) == len(names)
    assert not any(set(file.name) & set('/:*?"<>|\\') for file in files)


def test_pages_need_no_network_and_allow_their_own_scripts_by_hash_only(tmp_path):
    TrainingPage(tmp_path, "t")
    with ResultsPage(tmp_path / "results", "t"):
        pass
    for page, count in [(tmp_path / "index.html", 2), (tmp_path / "results/index.html", 0)]:
        html = Html(page)
        assert not html.attributes("script", "src") and "link" not in [tag for tag, _ in html.tags]
        assert "url(" not in page.read_text() and "@import" not in page.read_text()
        (policy,) = [attrs["content"] for _, attrs in html.tags if "http-equiv" in attrs]
        directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
        assert "'unsafe" not in directives["script-src"] and directives["default-src"] == "'none'"
        assert len(html.scripts) == count
        for script in html.scripts:
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in directives["script-src"]


# ---- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, flag", [(TrainingPage, "--no_html"), (ResultsPage, "--results_dir")]
)
def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path, make, flag):
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=flag) as error:
        make(tmp_path / "taken", "t")
    assert str(tmp_path / "taken") in str(error.value)


def test_training_continues_without_its_folder_and_says_so_once(tmp_path, caplog):
    page = TrainingPage(tmp_path / "web", "t")
    (tmp_path / "web").rename(tmp_path / "moved")
    one_epoch(page, 1)
    one_epoch(page, 2)
    (record,) = caplog.records
    assert record.name == "image_translation" and record.levelname == "WARNING"
    assert str(tmp_path / "web") in record.getMessage()
    (tmp_path / "moved").rename(tmp_path / "web")  # a passing trouble is over when it is over
    one_epoch(page, 3)
    assert [entry["epoch"] for entry in entries(tmp_path / "web")] == [3, 3]


def test_a_full_disk_leaves_no_half_line(tmp_path, caplog):
    resource = pytest.importorskip("resource")
    page = TrainingPage(tmp_path, "t")
    page.add_losses(1, 100, {"G": 0.5})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = (tmp_path / "data.js").stat().st_size + 20  # for a part of the next line
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        page.add_losses(2, 200, {"G": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(caplog.records) == 1
    page.add_losses(3, 300, {"G": 0.5})
    assert [entry["epoch"] for entry in entries(tmp_path)] == [1, 3]
