r"""A worked example: copy this file to data/NAME_dataset.py and make it yours.

`--dataset_mode NAME` then finds it; the class must be called <Name>Dataset (my_own: MyOwnDataset).
This one teaches a network to fill holes: A is an image with a grey square in it, B the image.

    python train.py --dataroot ./datasets/photos --name holes --model pix2pix \
        --dataset_mode template --hole_size 0.3
"""

import os
import random
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from data.base_dataset import BaseDataset, Files, get_transform
from data.image_folder import list_images
from data.image_reader import ImageReader


class TemplateDataset(BaseDataset):
    """Images under {phase}/ of --dataroot, with and without a hole."""

    @staticmethod
    def modify_commandline_options(parser: ArgumentParser, is_train: bool) -> ArgumentParser:
        """Add options of your own, and give others defaults (`parser.set_defaults`)."""
        parser.add_argument(
            "--hole_size", type=float, default=0.25, help="side of the hole, as a part of the image"
        )
        return parser

    @classmethod
    def check_options(cls, opt: Namespace) -> Iterator[str]:
        """Yield a sentence for each option that cannot work; all are shown at once."""
        if opt.input_nc != opt.output_nc:
            yield (
                f"--input_nc {opt.input_nc} and --output_nc {opt.output_nc} differ, but "
                f"--dataset_mode {opt.dataset_mode} makes A of B; use the same for both"
            )
        if not 0 < opt.hole_size <= 1:
            yield f"--hole_size {opt.hole_size} is no part of an image; use 0.1 to 1"

    def __init__(self, opt: Namespace) -> None:
        """List the files here, and read them in __getitem__: that part runs in the workers."""
        super().__init__(opt)  # keeps opt as self.opt and opt.dataroot as self.root
        self.paths = list_images(os.path.join(self.root, opt.phase), opt.max_dataset_size)
        self.read = ImageReader(opt, B=opt.output_nc)  # from files, or from --cache ram
        self.transform = get_transform(opt)  # a tensor in [-1, 1]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample. For A and B of two files see get_params in data/aligned_dataset.py."""
        path = self.paths[index]
        whole = self.transform(*self.read(path))
        holed = whole.clone()
        height, width = whole.shape[-2:]
        side = max(1, int(self.opt.hole_size * min(height, width)))
        y, x = random.randint(0, height - side), random.randint(0, width - side)
        holed[:, y : y + side, x : x + side] = 0
        return {"A": holed, "B": whole, "A_paths": path, "B_paths": path}

    def to_cache(self) -> Files:
        """What --cache ram keeps; without this method there is no cache."""
        return [(self.read, self.paths)]
