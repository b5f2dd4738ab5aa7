"""The examples of docs/data.md run as they are written, but for the size and length of training."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import test
import train
from scripts import check_dataset, draw_examples

DATA = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SHORT = ["--n_epochs", "1", "--n_epochs_decay", "0", "--ngf", "4", "--ndf", "4"]
SHORT += ["--num_threads", "0", "--gpu_ids", "-1"]
PROGRAMS = {
    "scripts/draw_examples.py": (draw_examples.main, ["--train", "3", "--test", "1"]),
    "scripts/check_dataset.py": (check_dataset.main, ["--num_threads", "0", "--gpu_ids", "-1"]),
    "train.py": (train.main, SHORT),
    "test.py": (test.main, ["--gpu_ids", "-1", "--num_threads", "0"]),
}


@pytest.mark.parametrize(
    "name, dtype, low, high", [("ct", np.int16, -1024, 1024), ("satellite", np.float32, -1, 1)]
)
def test_an_example_runs_and_gives_values_of_its_kind(here, name, dtype, low, high):
    section = re.search(rf"## A {name} example\n(.*?)(\n## |\Z)", DATA, re.I | re.S)[1]
    for line in re.search(r"```bash\n(.*?)```", section, re.S)[1].splitlines():
        _, program, *argv = shlex.split(line)
        main, more = PROGRAMS[program]
        main([*argv, *more])
    (path,) = Path("results").rglob("000_fake_B.npy")
    found = np.load(path)
    assert found.dtype == dtype and found.shape == (64, 64)
    assert low <= found.min() < found.max() <= high


def test_every_option_in_the_text_exists(here):
    for program, options in (("train.py", train.TrainOptions), ("test.py", test.TestOptions)):
        parser = options().build_parser(["--dataroot", "x"])
        for line in re.findall(rf"python {program} (.*)", DATA):
            for flag in re.findall(r"--\w+", line):
                assert flag in parser._option_string_actions
