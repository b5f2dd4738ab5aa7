"""scripts/gpu_acceptance.py on a CPU: the same program as on a GPU, small."""

import re
import subprocess
import sys
from argparse import Namespace

import pytest
from torchrun import ROOT

from scripts import gpu_acceptance


def test_every_check_is_made_and_good_and_the_tables_follow():
    command = [sys.executable, str(ROOT / "scripts/gpu_acceptance.py"), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    results = re.findall(r"^\| (.*?) \| (good|FAILED) \|", done.stdout, re.MULTILINE)
    assert dict(results) == dict.fromkeys(gpu_acceptance.checks("cpu"), "good")
    assert len(re.findall(r"^\| (cycle_gan|pix2pix) \| Conv", done.stdout, re.MULTILINE)) > 10
    assert "| ratio to plain |" in done.stdout


def test_a_check_that_fails_is_in_the_table_and_in_the_status(monkeypatch, capsys):
    def check():
        raise AssertionError("not | so")

    monkeypatch.setattr(gpu_acceptance, "checks", lambda device: {"a": check, "b": lambda: "well"})
    assert gpu_acceptance.report(Namespace(device="cpu", only=["a", "b"])) == 1
    said = capsys.readouterr().out
    assert "| a | FAILED | AssertionError: not / so | 0 |" in said and "| b | good | well |" in said


@pytest.mark.parametrize("wrong", [["--lambda_L1", "99.9"], ["--gan_mode", "lsgan"]])
def test_a_wrong_gradient_fails(wrong):
    with pytest.raises(AssertionError, match="relative errors .* and 0.0001 is the limit"):
        gpu_acceptance.check_gradients("cpu", "pix2pix", "--precision", "fp32", *wrong)


def test_without_a_gpu_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(gpu_acceptance.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cpu"):
        gpu_acceptance.report(Namespace(device="cuda", only=[""]))
