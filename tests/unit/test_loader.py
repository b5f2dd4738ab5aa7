"""The loader: what a step sees depends on the seed and the epoch, and on nothing else."""

import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import small_datasets
import torch
from PIL import Image
from small_datasets import CHANCE, assert_same, epochs

import data
from data import loader as loader_module
from data.base_dataset import BaseDataset
from data.loader import Loader
from data.sampler import EpochSampler
from data.seeding import preserve_rng_state, seed_all, seed_of
from data.unaligned_dataset import UnalignedDataset
from util import distributed
from util.errors import UserError


def options(**changes):
    random_crops = CHANCE | dict(preprocess="resize_and_crop", load_size=12, crop_size=8)
    defaults = random_crops | dict(dataset_mode="unaligned", batch_size=2)
    return small_datasets.options("here", **(defaults | changes))


class Noise(BaseDataset):
    """Draws from every source of random numbers that an author may use."""

    def __init__(self, size=7):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return {
            "index": index,
            "python": random.random(),
            "numpy": np.random.rand(),
            "torch": torch.rand(2),
        }


class NoisyImages(UnalignedDataset):
    """A random partner, a random crop, a random flip and noise."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), **Noise()[index]}


class Powers(Noise):
    """Arithmetic whose last bit depends on how torch splits it over threads."""

    def __getitem__(self, index):
        return {"powers": torch.rand(3, 255, 257) ** 2.4}


class Trouble(Noise):
    """Goes wrong at sample 4, in the way it is told."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def __getitem__(self, index):
        if index == 4 and self.kind == "user":
            raise UserError("cannot read a.png; replace it")
        if index == 4 and self.kind == "bug":
            return {}["no such key"]
        if index == 4 and self.kind == "shm":  # as torch 2.14 says it
            raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_0>: "
                               "No space left on device (28)")  # fmt: skip
        if index == 4 and self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Sizes(Noise):
    """Images that grow with their number."""

    def __getitem__(self, index):
        return {"A": torch.zeros(3, 4, 5 + index), "A_paths": f"{index}.png"}


def indices(loader):
    return [batch["index"].tolist() for batch in loader]


@pytest.fixture
def images(tmp_path):
    """An unpaired set with different numbers of images and different sizes."""
    draw = np.random.default_rng(0)
    for name, count in (("trainA", 5), ("trainB", 3)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = draw.integers(0, 255, (10 + i, 13, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("num_threads, start_method", [(1, "fork"), (4, "fork"), (2, "spawn")])
def test_batches_do_not_depend_on_the_workers(images, num_threads, start_method):
    dataset = NoisyImages(options(dataroot=str(images)))
    expected = epochs(Loader(dataset, options()))
    other = Loader(dataset, options(num_threads=num_threads), start_method)
    assert_same(epochs(other), expected)


def test_samples_do_not_depend_on_the_number_of_threads():
    before = torch.get_num_threads()
    batches = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            batches.append(list(Loader(Powers(), options())))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert_same(*batches)


def test_samples_do_not_depend_on_the_others_in_their_batch():
    one, many = (epochs(Loader(Noise(), options(batch_size=n)), [1]) for n in (1, 3))
    for key in ("index", "python", "numpy", "torch"):
        assert torch.equal(*(torch.cat([batch[key] for batch in each]) for each in (one, many)))
    index = one[2]["index"].item()
    with preserve_rng_state():
        seed_all(3, 1, index)  # the seed, the epoch
        assert Noise()[index]["python"] == one[2]["python"].item()


def test_the_epoch_number_alone_decides_an_epoch():
    loader = Loader(Noise(), options())
    first, second, again = (epochs(loader, [n]) for n in (1, 2, 1))
    assert_same(again, first)
    assert [b["index"].tolist() for b in first] != [b["index"].tolist() for b in second]

    def draws(batches, key):
        pairs = zip(*(torch.cat([b[k] for b in batches]) for k in ("index", key)), strict=True)
        return {int(index): value.tolist() for index, value in pairs}

    for key in ("python", "numpy", "torch"):
        one, two = draws(first, key), draws(second, key)
        assert one.keys() == two.keys() == set(range(7))
        assert all(one[i] != two[i] for i in range(7))
        assert len({str(value) for value in one.values()}) == 7


def test_another_seed_gives_another_order_and_other_draws():
    one, two = (epochs(Loader(Noise(), options(seed=s)), [1]) for s in (0, 1))
    assert [b["index"].tolist() for b in one] != [b["index"].tolist() for b in two]
    assert not torch.equal(one[0]["torch"], two[0]["torch"])


@pytest.mark.parametrize("num_threads", [0, 2])
def test_loading_leaves_the_random_numbers_of_the_training_alone(num_threads):
    loader = Loader(Noise(), options(num_threads=num_threads))

    def draws():
        return random.random(), np.random.rand(), torch.rand(3).tolist()

    def seed():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    seed()
    expected = [draws() for _ in range(10)]
    seed()
    drawn = []
    for epoch in (1, 2):
        loader.set_epoch(epoch)
        drawn += [draws() for _ in loader]
    assert len(drawn) == 8 and drawn == expected[:8]


def test_every_image_once_in_an_epoch_and_the_last_batch_smaller():
    loader = Loader(Noise(7), options(batch_size=3))
    batches = indices(loader)
    assert [len(b) for b in batches] == [3, 3, 1]
    assert sorted(sum(batches, [])) == list(range(7))
    assert len(loader) == 7 and len(list(loader.sampler)) == 3


def test_serial_batches_keep_the_order():
    assert indices(Loader(Noise(5), options(serial_batches=True))) == [[0, 1], [2, 3], [4]]


def test_max_dataset_size_limits_the_epoch_also_where_the_dataset_ignores_it():
    loader = Loader(Noise(7), options(max_dataset_size=3))
    assert len(loader) == 3 and len(list(loader.sampler)) == 2
    assert len(set(sum(indices(loader), []))) == 3
    assert len(Loader(Noise(2), options(max_dataset_size=3))) == 2


@pytest.mark.parametrize("num_threads", [0, 2])
def test_start_leaves_out_what_was_seen(num_threads):
    loader = Loader(Noise(), options(num_threads=num_threads))
    whole = epochs(loader, [4])
    loader.set_epoch(4, start=4)
    assert len(list(loader.sampler)) == 2 and len(loader) == 7
    assert_same(list(loader), whole[2:])
    loader.set_epoch(4, start=7)
    assert len(list(loader.sampler)) == 0 and list(loader) == []


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_epoch_that_was_broken_off_does_not_disturb_the_next(num_threads):
    expected = epochs(Loader(Noise(40), options()), [2])
    loader = Loader(Noise(40), options(num_threads=num_threads))
    loader.set_epoch(1)
    next(iter(loader))
    assert_same(epochs(loader, [2]), expected)


# --- ranks


def dealt(world_size, batch_size, size=16, start=0):
    """What each step sees: for each step, the (epoch, index) pairs of rank 0, 1, ..."""
    samplers = [
        EpochSampler(size, batch_size, seed=5, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for sampler in samplers:
        sampler.epoch, sampler.start = 3, start
    lists = [list(sampler) for sampler in samplers]
    steps = math.ceil((size - start) / (batch_size * world_size))
    assert [len(batches) for batches in lists] == [steps] * world_size
    return list(zip(*lists, strict=True))


@pytest.mark.parametrize("size, start", [(16, 0), (16, 4), (20, 0), (20, 8)])
@pytest.mark.parametrize("world_size, batch_size", [(2, 4), (4, 2)])
def test_a_step_sees_the_same_images_at_any_world_size(world_size, batch_size, size, start):
    alone = [step[0] for step in dealt(1, 8, size, start)]
    together = dealt(world_size, batch_size, size, start)
    assert [sum(step, []) for step in together] == alone


@pytest.mark.parametrize("size", range(1, 14))
@pytest.mark.parametrize("world_size, batch_size", [(2, 2), (4, 1), (4, 3)])
def test_ranks_take_equal_steps_and_the_beginning_fills_up_the_end(world_size, batch_size, size):
    steps = dealt(world_size, batch_size, size)
    for step in steps:
        assert len({len(part) for part in step}) == 1 and 0 < len(step[0]) <= batch_size
    everything = sum((part for step in steps for part in step), [])
    assert {index for _, index in everything[:size]} == set(range(size))
    assert len(everything) - size == -size % world_size
    assert all(pair == everything[k % size] for k, pair in enumerate(everything))


def test_the_loader_asks_for_its_rank(monkeypatch):
    alone = epochs(Loader(Noise(8), options(batch_size=4)), [1])
    parts = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        loader = Loader(Noise(8), options(batch_size=2))
        assert len(loader) == 8 and len(list(loader.sampler)) == 2
        parts.append(epochs(loader, [1]))
    together = [
        {key: torch.cat((one[key], two[key])) for key in one}
        for one, two in zip(*parts, strict=True)
    ]
    assert_same(together, alone)


# --- failures (an exception kept as a variable would keep the workers, and they end slowly then)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_user_error_arrives_with_its_message_alone(num_threads):
    loader = Loader(Trouble("user"), options(num_threads=num_threads))
    with pytest.raises(UserError, match="^cannot read a.png; replace it$"):
        list(loader)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_bug_in_a_dataset_keeps_its_traceback(num_threads):
    loader = Loader(Trouble("bug"), options(num_threads=num_threads))
    traceback_inside = "__getitem__.*" if num_threads else ""
    with pytest.raises(KeyError, match=f"(?s){traceback_inside}no such key"):
        list(loader)
    if num_threads:  # torch's own frames keep them here
        loader.batches._iterator._shutdown_workers()


def test_full_shared_memory_is_one_line_that_names_the_option():
    loader = Loader(Trouble("shm"), options(num_threads=1))
    with pytest.raises(UserError, match=r"--num_threads") as error:
        list(loader)
    assert "No space left on device" in str(error.value) and "\n" not in str(error.value)


def test_a_killed_worker_names_the_option_and_others_may_follow():
    loader = Loader(Trouble("killed"), options(num_threads=1))
    began = time.monotonic()
    with pytest.raises(UserError, match="--num_threads"):
        list(loader)
    assert time.monotonic() - began < 30
    loader.dataset.kind = "well"
    assert sorted(sum(indices(loader), [])) == list(range(7))


STUCK = """
from test_loader import *
from torch.utils.data import _utils
_utils.MP_STATUS_CHECK_INTERVAL = 0.1  # seconds that torch waits for a worker
class Stuck(Noise):
    def __getitem__(self, index):
        return time.sleep(100 * index) or super().__getitem__(index)
loader = Loader(Stuck(), options(num_threads=1, batch_size=1, serial_batches=True))
batches = iter(loader)
next(batches)
batches.close()
loader.batches._iterator = None
print("end")
"""


def test_a_worker_that_is_stuck_does_not_hold_up_the_end():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", STUCK]
    done = subprocess.run(command, env=env, capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stdout == b"end\n", done.stderr


@pytest.mark.parametrize("num_threads", [0, 1])
def test_unequal_sizes_name_the_files_and_the_remedy(num_threads):
    loader = Loader(Sizes(), options(num_threads=num_threads, serial_batches=True))
    files = "0.png is 5x4, 1.png is 6x4"
    with pytest.raises(UserError, match=f"{files}.*--preprocess resize_and_crop.*--batch_size 1"):
        list(loader)
    assert len(list(Loader(Sizes(), options(batch_size=1)))) == 7


def test_an_empty_dataset_is_a_user_error():
    with pytest.raises(UserError, match="--dataset_mode unaligned has no images in here"):
        Loader(Noise(0), options())


def test_seeds_differ_between_neighbours():
    keys = [(s, e, i) for s in range(5) for e in range(5) for i in range(20)]
    assert len({seed_of(*key) for key in keys}) == len(keys)


# --- advice


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(loader_module, "available_cores", lambda: 4)


def test_waiting_names_what_is_left_to_try(images, four_cores, tmp_path):
    def advice(**changes):
        opt = options(dataroot=str(images), checkpoints_dir=str(tmp_path / "c"), **changes)
        return data.create_dataset(opt).waiting_advice(0.43)

    one = advice(num_threads=1)
    assert "43%" in one and "--cache ram" in one and "--num_threads 4" in one
    one = advice(num_threads=1, cache="ram")
    assert "--cache" not in one and "--num_threads 4" in one
    assert "--cache ram" in advice(num_threads=4) and "--num" not in advice(num_threads=4)
    assert "all processor cores" in advice(num_threads=4, cache="ram")


def test_nobody_is_advised_who_hardly_waits():
    assert Loader(Noise(), options()).waiting_advice(0.05) is None


def test_advice_needs_neither_a_hash_nor_what_windows_lacks(images, four_cores, monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(UnalignedDataset, "__hash__", None)
    loader = data.create_dataset(options(dataroot=str(images)))
    assert "--cache ram" in loader.waiting_advice(0.5)
