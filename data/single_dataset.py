"""One folder of images, for `--model test`."""

from argparse import Namespace
from typing import Any

from data.base_dataset import BaseDataset, Files, input_side
from data.image_folder import list_frames
from data.image_reader import ImageReader
from data.transforms import get_transform


class SingleDataset(BaseDataset):
    """The images under --dataroot, or that file: inputs of the generator. --phase plays no part.

    They come in the order of the numbers in their names, as frames of a film do.
    """

    provides = ("A",)

    def __init__(self, opt: Namespace) -> None:
        super().__init__(opt)
        self.A_paths = list_frames(self.root, opt.max_dataset_size)
        self.read = ImageReader(opt, **{input_side(opt): opt.input_nc})
        self.transform = get_transform(opt)

    def __len__(self) -> int:
        return len(self.A_paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image: A (C, H, W), A_paths."""
        path = self.A_paths[index]
        return {"A": self.transform(*self.read(path)), "A_paths": path}

    def to_cache(self) -> Files:
        """All images."""
        return [(self.read, self.A_paths)]
