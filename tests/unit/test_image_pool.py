"""util/image_pool.py: the buffer of generated images."""

import random

import pytest
import torch

from util.image_pool import ImagePool


def numbered(*numbers):
    """(N, 1, 2, 2): images that are recognised by their value."""
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def numbers(images):
    assert images.shape[1:] == (1, 2, 2)
    return images[:, 0, 0, 0].tolist()


def test_no_pool_returns_the_images_without_gradient():
    images = numbered(1, 2).clone().requires_grad_(True)
    pool = ImagePool(0)
    out = pool.query(images)
    assert torch.equal(out, images) and not out.requires_grad
    assert pool.images == []


def test_filling_pool_returns_what_it_is_given():
    pool = ImagePool(5)
    assert numbers(pool.query(numbered(1, 2))) == [1, 2]
    assert numbers(pool.query(numbered(3, 4, 5))) == [3, 4, 5]
    assert [image.max() for image in pool.images] == [1, 2, 3, 4, 5]


def draws(monkeypatch, uniform, randint):
    """Let `random` answer from the given lists."""
    monkeypatch.setattr(random, "uniform", lambda low, high: uniform.pop(0))
    monkeypatch.setattr(random, "randint", lambda low, high: randint.pop(0))


def test_full_pool_keeps_or_swaps_by_the_draw(monkeypatch):
    pool = ImagePool(3)
    pool.query(numbered(1, 2, 3))
    draws(monkeypatch, uniform=[0.4, 0.6, 0.9], randint=[1, 1])
    # 4 passes; 5 takes the place of 2; 6 that of 5
    assert numbers(pool.query(numbered(4, 5, 6))) == [4, 2, 5]
    assert [image.max() for image in pool.images] == [1, 6, 3]


def test_a_batch_may_fill_the_pool_and_go_on(monkeypatch):
    draws(monkeypatch, uniform=[0.9], randint=[0])
    pool = ImagePool(2)
    assert numbers(pool.query(numbered(1, 2, 3))) == [1, 2, 1]


def test_half_of_the_answers_are_old_and_every_place_is_used():
    random.seed(0)
    pool = ImagePool(4)
    pool.query(numbered(0, 1, 2, 3))
    old = [numbers(pool.query(numbered(i)))[0] != i for i in range(4, 2004)]
    assert abs(sum(old) - 1000) < 90  # four standard deviations of a fair coin
    assert min(image.max() for image in pool.images) > 1900


def test_nothing_is_lost_or_doubled():
    random.seed(1)
    pool = ImagePool(3)
    shown = [x for i in range(0, 40, 2) for x in numbers(pool.query(numbered(i, i + 1)))]
    shown = shown[3:] + [image.max().item() for image in pool.images]
    assert sorted(shown) == list(range(40))


def test_seeding_random_repeats_the_choice():
    def run(seed):
        random.seed(seed)
        pool = ImagePool(3)
        return [numbers(pool.query(numbered(i, i + 1))) for i in range(0, 60, 2)]

    assert run(0) == run(0) != run(1)


def test_images_kept_are_detached_and_their_own(monkeypatch):
    draws(monkeypatch, uniform=[0.9], randint=[0])
    images = numbered(1, 2, 3).clone().requires_grad_(True)
    pool = ImagePool(2)
    out = pool.query(images)  # 3 takes the place of 1
    assert not out.requires_grad
    with torch.no_grad():
        images.zero_()
        out.zero_()
    assert [image.max() for image in pool.images] == [3, 2]
    assert not any(image.requires_grad for image in pool.images)
    assert all(image.untyped_storage().nbytes() == 4 * 8 for image in pool.images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_shape_are_kept(dtype):
    pool = ImagePool(1)
    for _ in range(6):
        out = pool.query(torch.ones(1, 3, 4, 6, dtype=dtype))
        assert out.dtype == dtype and out.shape == (1, 3, 4, 6)
