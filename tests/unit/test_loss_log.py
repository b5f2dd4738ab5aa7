"""loss_log.txt and losses.csv: what a continued run keeps of them, and what a crash leaves."""

import csv
import re
from pathlib import Path

import pytest

from util.reports.loss_log import LossLog

A, B = "0" * 8, "12ab34cd"  # ids of runs
LINES = [(1, 2, 2), (1, 4, 4), (2, 2, 6), (2, 4, 8)]  # (epoch, images of it, images in all)


@pytest.fixture
def logged(tmp_path):
    """An earlier run, and one of two epochs that was continued amid the second."""
    LossLog(tmp_path, run=B).add(9, 9, 9, 0.0, 0.0, {"G": 9.0})
    first = LossLog(tmp_path, run=A)
    for place in LINES[:3]:
        first.add(*place, 0.25, 0.5, {"G": place[2] / 8})
    LossLog(tmp_path, LINES[2]).add(*LINES[3], 0.25, 0.5, {"G": 1.0})
    return tmp_path


def places(folder: Path) -> list:
    """(epoch, images of it) of the lines of loss_log.txt, and what its headings say."""
    text = (folder / "loss_log.txt").read_text()
    found = re.findall(r"^(?:=+ (Training Loss).*?(continued)?\) =+|.*: (\d+), iters: (\d+).*)$",
                       text, re.MULTILINE)  # fmt: skip
    return [f[1] or f[0] or (int(f[2]), int(f[3])) for f in found]


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "losses.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_is_one_table_and_its_lines_follow_their_headings(logged):
    new = "Training Loss"
    assert places(logged) == [new, (9, 9), new, (1, 2), (1, 4), (2, 2), "continued", (2, 4)]
    assert rows(logged)[1] == {
        "epoch": "1", "iters": "4", "total_iters": "4", "time": "0.250000", "data": "0.500000",
        "run": A, "G": "0.5",
    }  # fmt: skip
    assert [int(row["total_iters"]) for row in rows(logged)] == [2, 4, 6, 8]
    assert "9.0" in (logged / f"losses_{B}.csv").read_text()


def test_continuing_takes_out_what_is_beyond_the_place_and_nothing_of_earlier_runs(logged):
    log = LossLog(logged, LINES[1])
    assert [place for place in places(logged) if isinstance(place, tuple)] == [
        (9, 9), (1, 2), (1, 4)
    ]  # fmt: skip
    assert len(rows(logged)) == 4  # until there is a new row
    log.add(2, 2, 6, 0.0, 0.0, {"G": 0.0, "new": 1.0})
    assert [(row["total_iters"], row["new"]) for row in rows(logged)] == [
        ("2", ""), ("4", ""), ("6", "1.0"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "damage", [b"1,2,", b"\0" * 9, b'"' + b"x" * 200_000, b"\xff,1,1,0,0,1", b"1,1," + b"9" * 5000]
)
def test_a_damaged_line_is_dropped_and_no_other(damage, logged):
    for name in ("losses.csv", "loss_log.txt"):
        with open(logged / name, "ab") as file:
            file.write(damage + b",0,0,1\n(epoch: 2, iters: 3")
    LossLog(logged, LINES[3]).add(3, 1, 9, 0.0, 0.0, {"G": 0.0})
    found = rows(logged)
    assert [row["total_iters"] for row in found if row["total_iters"].isdigit()][-2:] == ["8", "9"]
    assert all(None not in row and None not in row.values() for row in found)
    text = (logged / "loss_log.txt").read_bytes()
    assert damage not in text and b"iters: 3" not in text and text.count(b"(epoch") == 6


def test_a_heading_never_ends_half_a_line(logged):
    """What a crash left of the last one."""
    with open(logged / "loss_log.txt", "ab") as file:
        file.write(b"(epoch: 2, it")
    LossLog(logged, run="ab" * 4)
    assert "\n(epoch: 2, it\n=====" in (logged / "loss_log.txt").read_text()
    assert places(logged)[-1] == "Training Loss"


def test_a_name_with_a_line_break_is_one_line(tmp_path):
    log = LossLog(tmp_path)
    for seen in (1, 2):
        log.add(1, seen, seen, 0.0, 0.0, {'D,\n"': 1.0})
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 3
    assert [row['D,\\n"'] for row in rows(tmp_path)] == ["1.0", "1.0"]


def test_a_run_of_before_is_continued_apart_from_those_after_it(logged):
    LossLog(logged, run="c" * 8).add(1, 3, 3, 0.0, 0.0, {"G": 3.0})
    LossLog(logged, LINES[0], run=A).add(1, 4, 4, 0.25, 0.5, {"G": 4.0})
    new = "Training Loss"
    assert places(logged) == [
        new,
        (9, 9),
        new,
        (1, 2),
        "continued",
        new,
        (1, 3),
        "continued",
        (1, 4),
    ]
    assert [(row["run"], row["total_iters"], row["G"]) for row in rows(logged)] == [
        (A, "2", "0.25"), (A, "4", "4.0")
    ]  # fmt: skip
    tables = {path.name for path in logged.glob("*.csv")}
    assert tables == {"losses.csv", f"losses_{B}.csv", f"losses_{'c' * 8}.csv"}


def test_what_was_logged_without_an_id_is_of_the_last_run(logged):
    """By version 0.2 and the original."""
    for name in ("losses.csv", "loss_log.txt"):
        path = logged / name
        path.write_text(re.sub(f", run {A}|run,|{A},", "", path.read_text()))
    LossLog(logged, LINES[1], run="d" * 8).add(2, 2, 6, 0.25, 0.5, {"G": 6.0})
    assert places(logged)[2:] == ["Training Loss", (1, 2), (1, 4), "continued", "continued", (2, 2)]
    assert [row["total_iters"] for row in rows(logged)] == ["2", "4", "6"]
    LossLog(logged, run=A).add(1, 2, 2, 0.25, 0.5, {"G": 0.0})
    assert [row["G"] for row in rows(logged)] == ["0.0"]
