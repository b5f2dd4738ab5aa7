"""Preprocessing, against the numbers of the original (tests/reference/transforms.json)."""

import pickle
import random
from argparse import Namespace

import numpy as np
import pytest
import torch
from formulas import assert_digest, formula_image, reference
from PIL import Image
from torchvision.transforms import InterpolationMode

from data.transforms import PREPROCESS, get_params, get_transform, resized_size


def options(preprocess="resize_and_crop", load_size=286, crop_size=256, no_flip=False):
    return Namespace(
        preprocess=preprocess, load_size=load_size, crop_size=crop_size, no_flip=no_flip
    )


def formula_pil(width, height, phase=0.0):
    values = formula_image(1, 3, height, width, phase)[0].float()
    levels = ((values + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def ramp(width, height):
    """An image whose red is x and whose green is y."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack((x, y, 0 * x), axis=2).astype(np.uint8))


@pytest.mark.parametrize("case", reference("transforms"))
def test_transform_equals_the_original(case):
    opt = options(case["preprocess"], case["load_size"], case["crop_size"])
    params = {"crop_pos": case["crop_pos"], "flip": case["flip"]}
    image = formula_pil(*case["image"], case["phase"])
    out = get_transform(opt, params, grayscale=case["grayscale"])(image)
    assert list(out.shape) == case["shape"] and out.dtype == torch.float32
    assert_digest(out, case["out"], rel=1e-12, abs=1e-12)


def test_every_preprocess_has_a_reference():
    assert {case["preprocess"] for case in reference("transforms")} == set(PREPROCESS)


def test_black_is_minus_one_and_white_is_one():
    transform = get_transform(options("none"))
    for level, value in ((0, -1.0), (255, 1.0)):
        image = Image.new("RGB", (8, 8), (level, level, level))
        assert torch.equal(transform(image), torch.full((3, 8, 8), value))


def test_no_flip_wins_over_params():
    params = {"crop_pos": (0, 0), "flip": True}
    kept = get_transform(options("none", no_flip=True), params, convert=False)(ramp(8, 4))
    flipped = get_transform(options("none"), params, convert=False)(ramp(8, 4))
    assert kept.getpixel((0, 0)) == (0, 0, 0) and flipped.getpixel((0, 0)) == (7, 0, 0)


def test_random_crops_stay_inside_and_reach_every_place():
    random.seed(0)
    transform = get_transform(options("crop", crop_size=6, no_flip=True), convert=False)
    corners = {transform(ramp(8, 7)).getpixel((0, 0))[:2] for _ in range(200)}
    assert corners == {(x, y) for x in range(3) for y in range(2)}


def test_random_flips_are_fair():
    random.seed(0)
    transform = get_transform(options("none"), convert=False)
    flips = sum(transform(ramp(8, 4)).getpixel((0, 0)) == (7, 0, 0) for _ in range(400))
    assert 150 < flips < 250  # 200 expected, standard deviation 10


def test_get_params_draws_positions_of_the_resized_image():
    random.seed(0)
    opt = options("scale_width_and_crop", load_size=20, crop_size=18)
    drawn = [get_params(opt, (10, 5))["crop_pos"] for _ in range(100)]  # resized: 20 x 18
    assert {x for x, _ in drawn} == {0, 1, 2} and {y for _, y in drawn} == {0}


def test_image_not_larger_than_the_crop_is_left_as_it_is():
    opt = options("crop", crop_size=16)
    assert get_params(opt, (10, 16))["crop_pos"] == (0, 0)
    assert get_transform(opt)(ramp(10, 16)).shape == (3, 16, 10)


def test_image_larger_in_one_direction_is_filled_up_with_black():
    opt = options("crop", crop_size=16, no_flip=True)
    out = get_transform(opt)(Image.new("RGB", (20, 10), (255, 255, 255)))
    assert out.shape == (3, 16, 16)
    assert (out[:, :10] == 1).all() and (out[:, 10:] == -1).all()


def test_none_keeps_at_least_four_pixels():
    assert get_transform(options("none"))(ramp(1, 7)).shape == (3, 8, 4)


@pytest.mark.parametrize("method", [Image.Resampling.NEAREST, InterpolationMode.NEAREST])
def test_method_of_pil_and_of_torchvision(method):
    labels = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8))
    opt = options(load_size=9, crop_size=9)
    out = get_transform(opt, method=method, convert=False)(labels)
    assert set(np.unique(np.asarray(out))) == {0, 255}  # bicubic would make greys


def test_transform_can_be_pickled_for_spawned_workers():
    transform = pickle.loads(pickle.dumps(get_transform(options(), grayscale=True)))
    assert transform(ramp(30, 40)).shape == (1, 256, 256)


@pytest.mark.parametrize("preprocess", PREPROCESS)
@pytest.mark.parametrize("size", [(64, 48), (47, 101), (30, 1000), (29, 29), (3, 500), (13, 7)])
def test_preparing_twice_is_preparing_once(preprocess, size):
    """So what `ImageReader` gives is neither resized again nor drawn for in another way."""
    opt = options(preprocess, load_size=37, crop_size=29)
    resized = resized_size(opt, size)
    assert resized_size(opt, resized) == resized
    draws = []
    for drawn_for in (size, resized):
        random.seed(1)
        draws.append([get_params(opt, drawn_for) for _ in range(5)])
    assert draws[0] == draws[1]
