import sys

import pytest
from conftest import TINY, TWO_EPOCHS

import test
import train
from util.errors import UserError


def test_without_wandb_one_line_names_the_pip_command(aligned, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    argv = ["--dataroot", str(aligned), "--model", "pix2pix", *TINY, "--use_wandb"]
    with pytest.raises(UserError, match="pip install wandb"):
        train.main(argv)


def test_training_and_testing_log_to_an_offline_run(aligned, here, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed (requirements-optional.txt)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    argv = ["--dataroot", str(aligned), "--name", "n", "--model", "pix2pix", "--use_wandb"]
    train.main([*argv, *TINY, *TWO_EPOCHS, "--display_freq", "2"])
    test.main(argv)
    runs = list((here / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    for run in runs:
        (log,) = run.glob("*.wandb")
        assert b"real_A" in log.read_bytes()
        assert list((run / "files" / "media" / "images").glob("fake_B*.png"))
