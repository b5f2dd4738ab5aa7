"""util.util: images in and out."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from util import util
from util.errors import UserError


def test_tensor2im_takes_the_first_image_and_rounds_down():
    batch = torch.stack((torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1), torch.ones(3, 1, 1)))
    assert util.tensor2im(batch).tolist() == [[[0, 127, 255]]]  # (0 + 1) / 2 * 255 = 127.5
    assert util.tensor2im(batch[0]).tolist() == [[[0, 127, 255]]]


def test_tensor2im_repeats_a_single_channel():
    image = util.tensor2im(torch.full((2, 1, 4, 5), 1.0))
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8 and (image == 255).all()


def test_tensor2im_clips():
    assert util.tensor2im(torch.tensor([[[-3.0, 3.0]]])).tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensor2im_of_other_types_that_need_gradients(dtype):
    image = torch.ones(1, 3, 2, 2, dtype=dtype, requires_grad=True)
    assert (util.tensor2im(image) == 255).all()


def test_tensor2im_passes_other_things_through():
    assert util.tensor2im(np.array([1.9]), np.uint8).tolist() == [1]
    assert util.tensor2im("text") == "text"


@pytest.mark.parametrize("ratio, size", [(1.0, (6, 4)), (2.0, (12, 4)), (0.5, (6, 8))])
def test_save_image_stretches_by_aspect_ratio(tmp_path, ratio, size):
    path = tmp_path / "a.png"
    util.save_image(np.zeros((4, 6, 3), np.uint8), str(path), aspect_ratio=ratio)
    assert Image.open(path).size == size
    assert os.listdir(tmp_path) == ["a.png"]


def test_save_image_keeps_the_pixels(tmp_path):
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    util.save_image(image, str(tmp_path / "a.png"))
    assert (np.asarray(Image.open(tmp_path / "a.png")) == image).all()


def test_save_image_keeps_the_old_file_if_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    util.save_image(np.full((2, 2, 3), 7, np.uint8), str(path))

    def disk_full(self, target, **_):
        target.write(b"half a f")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", disk_full)
    with pytest.raises(UserError, match="a.png: No space left on device"):
        util.save_image(np.zeros((2, 2, 3), np.uint8), str(path))
    assert os.listdir(tmp_path) == ["a.png"]
    assert (np.asarray(Image.open(path)) == 7).all()


def test_save_image_into_a_missing_folder_names_the_path(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        util.save_image(np.zeros((2, 2, 3), np.uint8), str(tmp_path / "nowhere" / "a.png"))


def test_mkdirs_takes_one_path_or_several(tmp_path):
    util.mkdirs(str(tmp_path / "a" / "b"))
    util.mkdirs([str(tmp_path / "a"), tmp_path / "c"])
    util.mkdirs(tmp_path / "d")
    assert sorted(os.listdir(tmp_path)) == ["a", "c", "d"]


def test_mkdirs_over_a_file_is_a_user_error(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match="cannot write .*a is no folder; rename"):
        util.mkdirs(str(tmp_path / "a"))
