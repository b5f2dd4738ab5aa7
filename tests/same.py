"""Whether two runs left the same behind: weights, optimizers, random states, logs."""

import csv
import re
from pathlib import Path

import torch

from options.train_options import TrainOptions

PARSER = TrainOptions().build_parser([])
TIMES = re.compile(rb"time: [0-9.]+, data: [0-9.]+")


def run_of(folder):
    """What a run leaves: file name to content, the times of the logs aside."""
    folder = Path(folder)
    files = [f for f in sorted(folder.glob("*.pth")) if not f.name.startswith("previous_")]
    weights = {path.name: path.read_bytes() for path in files if "_net_" in path.name}
    states = {f.name: torch.load(f, weights_only=True) for f in files if "_state" in f.name}
    for state in states.values():
        run = state.pop("run")  # its id
        for name in list(state["options"]):
            if PARSER.on_resume(name) != "keep":
                del state["options"][name]
    lines = (folder / "loss_log.txt").read_bytes().splitlines()
    log, own = [], False
    for line in lines:
        heading = line.startswith(b"===")
        own = f", run {run}".encode() in line if heading else own
        log += [TIMES.sub(b"", line)] * (own and not heading)
    with open(folder / "losses.csv", newline="") as file:
        assert {row["run"] for row in csv.DictReader(file)} == {run}
    table = logged_losses(folder)
    return {"weights": weights, "states": states, "log": log, "table": table}


def logged_losses(folder):
    """The rows of losses.csv that a run with the same seed has, too."""
    with open(Path(folder) / "losses.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("time", "data", "run")} for row in rows]


def assert_same_run(a, b):
    """Byte for byte, with the options of the run but for those that may change."""
    a, b = run_of(a), run_of(b)
    assert a["table"] == b["table"] and len(a["table"]) > 1
    assert a["log"] == b["log"]
    assert a["weights"].keys() == b["weights"].keys() and len(a["weights"]) > 1
    assert a["states"].keys() == b["states"].keys() and len(a["states"]) > 1
    different = difference(a["states"], b["states"])
    assert different is None, different
    for name in a["weights"]:
        assert a["weights"][name] == b["weights"][name], name


def difference(a, b, where="state"):
    """The first place where two nested states differ; None if they are equal bit for bit."""
    if type(a) is not type(b):
        return f"{where}: {type(a)} and {type(b)}"
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a, b)
        return None if same else f"{where}: tensors"
    if isinstance(a, dict):
        if list(a) != list(b):
            return f"{where}: {sorted(a.keys() ^ b.keys())}"
        parts = [(a[key], b[key], f"{where}.{key}") for key in a]
    elif isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return f"{where}: {len(a)} and {len(b)}"
        parts = [(x, y, f"{where}.{i}") for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return None if a == b else f"{where}: {a!r} and {b!r}"
    return next((d for d in (difference(*part) for part in parts) if d), None)
