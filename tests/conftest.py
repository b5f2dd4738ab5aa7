"""Small datasets and the arguments that make a run tiny."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks are slower on several threads

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TESTS = Path(__file__).parent
TINY = ["--gpu_ids", "-1", "--load_size", "32", "--crop_size", "32", "--ngf", "4", "--ndf", "4"]
TINY += ["--netG", "resnet_6blocks", "--num_threads", "0", "--print_freq", "1"]
TWO_EPOCHS = ["--n_epochs", "1", "--n_epochs_decay", "1"]

# a shell's background jobs and nohup ignore these, which every program started here would inherit
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def draw_image(seed, width=32, height=32):
    """A smooth picture, different for every seed."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + c) + seed) * np.cos(y / (5 - c) - seed) for c in range(3)]
    return Image.fromarray(((np.stack(waves, -1) + 1) * 127.5).astype(np.uint8))


def write_images(folder, count, width=32, height=32):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        draw_image(i + sum(folder.name.encode()) % 97, width, height).save(folder / f"{i + 1}.png")


def pytest_collection_modifyitems(items):
    """Mark every test with its tier: the folder of tests/ that it is in."""
    for item in items:
        item.add_marker(item.path.relative_to(TESTS).parts[0])


@pytest.fixture
def aligned(tmp_path):
    """Side-by-side pairs: 5 to train, 2 to test."""
    root = tmp_path / "aligned"
    write_images(root / "train", 5, width=64)
    write_images(root / "test", 2, width=64)
    return root


@pytest.fixture
def unaligned(tmp_path):
    """Two folders: 5 and 3 to train, 2 and 2 to test."""
    root = tmp_path / "unaligned"
    for part, count in {"trainA": 5, "trainB": 3, "testA": 2, "testB": 2}.items():
        write_images(root / part, count)
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run in an empty folder: ./checkpoints and ./results are made there."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
