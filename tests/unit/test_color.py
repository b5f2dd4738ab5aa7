"""Colour conversion, against scikit-image."""

import numpy as np
import pytest
import torch
from skimage import color

from util.color import lab_to_rgb, rgb_to_lab


def channels_last(tensor):
    return tensor.permute(1, 2, 0).numpy()


def every_colour(levels=18):
    """(3, levels, levels**2): a grid over the whole sRGB cube, dark colours included."""
    steps = torch.linspace(0, 1, levels, dtype=torch.float64) ** 2
    grid = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"))
    return grid.reshape(3, levels, -1)


def test_rgb_to_lab_equals_scikit_image():
    rgb = every_colour()
    want = color.rgb2lab(channels_last(rgb))
    np.testing.assert_allclose(channels_last(rgb_to_lab(rgb)), want, rtol=0, atol=1e-8)


def test_lab_to_rgb_equals_scikit_image_out_of_gamut_too():
    L, a, b = (
        torch.linspace(*ends, 17, dtype=torch.float64) for ends in ((0, 100),) + 2 * ((-110, 110),)
    )
    lab = torch.stack(torch.meshgrid(L, a, b, indexing="ij")).reshape(3, 17, -1)
    rgb = lab_to_rgb(lab)
    with pytest.warns(UserWarning):  # scikit-image counts the colours with negative Z
        want = color.lab2rgb(channels_last(lab))
    np.testing.assert_allclose(channels_last(rgb), want, rtol=0, atol=1e-6)
    assert rgb.min() == 0 and rgb.max() == 1


def test_known_colours():
    black_white = torch.tensor([0.0, 1.0], dtype=torch.float64).view(1, 1, 2).expand(3, 1, 2)
    lab = rgb_to_lab(black_white)
    assert torch.allclose(lab[:, 0, 0], torch.zeros(3, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(lab[:, 0, 1], torch.tensor([100.0, 0, 0], dtype=torch.float64), atol=1e-2)


def test_round_trip():
    rgb = every_colour()
    assert (lab_to_rgb(rgb_to_lab(rgb)) - rgb).abs().max() < 1e-6


def test_batches_and_float32():
    rgb = torch.rand(2, 5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    lab = rgb_to_lab(rgb)
    assert lab.shape == rgb.shape and lab.dtype == torch.float32
    assert torch.allclose(lab[1, 2], rgb_to_lab(rgb[1, 2]), atol=1e-4)
    assert (lab_to_rgb(lab) - rgb).abs().max() < 1e-4


def test_gradients_are_finite_at_black_and_white():
    rgb = torch.tensor([0.0, 1.0]).view(1, 1, 2).repeat(3, 1, 1).requires_grad_()
    lab_to_rgb(rgb_to_lab(rgb)).sum().backward()
    assert rgb.grad.isfinite().all()
