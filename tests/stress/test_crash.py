"""The short version of tests/stress/crash_test.py, which kills each case 20 times."""

import subprocess
import sys

import pytest
from jobs import IN_PROC
from torchrun import ROOT


@IN_PROC
@pytest.mark.parametrize(("case", "ranks"), [("pix2pix", 1), ("cycle_gan", 2)])
def test_a_killed_and_continued_run_is_the_run_that_nobody_killed(case, ranks):
    program = str(ROOT / "tests" / "stress" / "crash_test.py")
    argv = ["--kills", "2", "--cases", case, "--ranks", str(ranks), "--seed", "5"]
    done = subprocess.run(
        [sys.executable, program, *argv], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {case} | {ranks} | 2 | " in done.stdout and done.stdout.endswith("| yes |\n")
    assert "inside a save" in done.stdout
