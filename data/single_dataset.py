"""One folder of images, for `--model test`."""

from argparse import Namespace
from typing import Any

from data.base_dataset import BaseDataset, channels, get_transform
from data.image_folder import load_image, make_dataset


class SingleDataset(BaseDataset):
    """All images under --dataroot itself; --phase plays no part."""

    def __init__(self, opt: Namespace) -> None:
        """List the images.

        Raises:
            UserError: the folder is missing or empty.
        """
        super().__init__(opt)
        self.A_paths = make_dataset(self.root, opt.max_dataset_size)
        self.transform = get_transform(opt, grayscale=channels(opt)[0] == 1)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.A_paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image: A (C, H, W), A_paths."""
        path = self.A_paths[index]
        return {"A": self.transform(load_image(path)), "A_paths": path}
