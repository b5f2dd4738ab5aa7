"""Small datasets without a command line: their images, options and batches."""

import os
from argparse import Namespace

import torch
from PIL import Image

import data

CHANCE = dict(no_flip=False, serial_batches=False, load_size=15, crop_size=11, seed=3)


def write(path, *colours, width=8, height=8):
    """An image of vertical stripes, one for each colour, each `width` wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width * len(colours), height))
    for i, colour in enumerate(colours):
        image.paste(colour, (i * width, 0, (i + 1) * width, height))
    image.save(path)
    return path


def saved(tmp_path, array, mode=None, name="a.png"):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(tmp_path / name)
    return str(tmp_path / name)


def options(root, **changes):
    opt = dict(
        dataroot=str(root),
        phase="train",
        dataset_mode="aligned",
        model="pix2pix",
        direction="AtoB",
        input_nc=3,
        output_nc=3,
        serial_batches=True,
        num_threads=0,
        batch_size=1,
        load_size=8,
        crop_size=8,
        max_dataset_size=float("inf"),
        preprocess="none",
        no_flip=True,
        seed=0,
        device=torch.device("cpu"),
        isTrain=True,
        checkpoints_dir=os.path.join(root, "checkpoints"),
    )
    return Namespace(**{**opt, **changes})


def dataset(root, mode, **changes):
    opt = options(root, dataset_mode=mode, **changes)
    return data.find_dataset_using_name(mode)(opt)


def epochs(loader, numbers=(1, 2)):
    """All batches of some epochs."""
    batches = []
    for number in numbers:
        loader.set_epoch(number)
        batches += list(loader)
    return batches


def assert_same(batches, others):
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key, value in batch.items():
            same = torch.equal(value, other[key]) if torch.is_tensor(value) else value == other[key]
            assert same, key
