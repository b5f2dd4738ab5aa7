"""Two sets of images without pairs, for CycleGAN."""

import random
from argparse import Namespace
from typing import Any

from data.base_dataset import BaseDataset, Files, channels
from data.image_folder import list_images, two_folders
from data.image_reader import ImageReader
from data.transforms import get_transform


class UnalignedDataset(BaseDataset):
    """Images of {phase}A/ and {phase}B/ under --dataroot (or A/{phase}/ and B/{phase}/)."""

    def __init__(self, opt: Namespace) -> None:
        super().__init__(opt)
        folders = two_folders(self.root, opt.phase)
        self.A_paths, self.B_paths = (list_images(f, opt.max_dataset_size) for f in folders)
        nc_A, nc_B = channels(opt)
        self.read_A, self.read_B = ImageReader(opt, A=nc_A), ImageReader(opt, B=nc_B)
        self.transform = get_transform(opt)

    def __len__(self) -> int:
        """The size of the larger set; the smaller one is gone through more than once."""
        return max(len(self.A_paths), len(self.B_paths))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A (C, H, W) number `index`, a random B (number `index` with --serial_batches), paths."""
        path_A = self.A_paths[index % len(self.A_paths)]
        index_B = index if self.opt.serial_batches else random.randrange(len(self.B_paths))
        path_B = self.B_paths[index_B % len(self.B_paths)]
        return {
            "A": self.transform(*self.read_A(path_A)),
            "B": self.transform(*self.read_B(path_B)),
            "A_paths": path_A,
            "B_paths": path_B,
        }

    def to_cache(self) -> Files:
        """Both sets."""
        return [(self.read_A, self.A_paths), (self.read_B, self.B_paths)]
