"""Finding image files; every way in which that fails ends in a UserError."""

import os
from collections.abc import Iterator
from pathlib import Path

from data.image_io import load_image, pages, split_page
from util.distributed import print0
from util.errors import UserError, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp", ".npy", ".npz")
OF_A_RUN = ("train_opt.txt", "test_opt.txt")  # beside its images; the original writes one, too
IMG_EXTENSIONS = [ending for suffix in SUFFIXES for ending in (suffix, suffix.upper())]
default_loader = load_image  # the name that people's own datasets import


def is_image_file(filename: str) -> bool:
    """Whether the name has the suffix of an image, in upper or lower case."""
    hidden_twin = os.path.basename(filename).startswith("._")  # macOS puts these into archives
    return filename.lower().endswith(SUFFIXES) and not hidden_twin


def make_dataset(dir: str, max_dataset_size: float = float("inf")) -> list[str]:
    """The sorted paths of the images under `dir`, also in sub-folders and behind symbolic links.

    UserError if there is no such folder, or no image in it.
    """
    if not os.path.isdir(dir):
        raise UserError(_missing(dir))
    paths = sorted(walk(dir))
    if not paths:
        raise UserError(
            f"the folder {dir} has no image in it or below it; {contents(dir)}. "
            f"Files count whose names end in {', '.join(SUFFIXES)}, upper or lower case"
        )
    return paths[: int(min(max_dataset_size, len(paths)))]


def list_images(dir: str, max_dataset_size: float = float("inf")) -> list[str]:
    """As `make_dataset`, with each page of a TIFF and each array of an NPZ as an image.

    The path of a page is {file}/page_0001 and so on; `data.image_io` reads it.
    """
    paths = [page for path in make_dataset(dir) for page in pages(path)]
    return paths[: int(min(max_dataset_size, len(paths)))]


def walk(folder: str) -> Iterator[str]:
    """Yield the images under `folder`, but not those that a run of this program has written.

    A link back to a folder that we are in is not followed.
    """
    left: list[tuple[str, tuple]] = [(folder, ())]  # no recursion: folders may nest deeply
    while left:
        folder, above = left.pop()
        try:
            stat, entries = os.stat(folder), list(os.scandir(folder))
        except OSError as error:
            problem = f"cannot list the folder {one_line(folder)}: {error.strerror}"
            raise UserError(f"{problem}; mend its permissions or remove it") from error
        here = stat.st_dev, stat.st_ino
        if above and any(entry.name in OF_A_RUN for entry in entries):
            print0(f"left out, as results or checkpoints: {one_line(folder)}")
            continue
        for entry in entries if here not in above else ():
            # is_dir() asks the disk about links only, and fails on a link to itself
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                left.append((entry.path, (*above, here)))
            elif is_image_file(entry.name):
                yield entry.path


def _missing(folder: str) -> str:
    """Say that a folder is missing, and what is there instead."""
    if os.path.exists(folder):
        return f"{folder} is a file, and a folder of images is needed; check --dataroot"
    parent = next(above for above in Path(folder).absolute().parents if os.path.isdir(above))
    return f"there is no folder {folder}; {contents(parent)}. Check --dataroot and --phase"


def contents(folder: str | Path) -> str:
    """A phrase that lists what is in a folder, for messages."""
    try:
        return f"{folder} holds {one_line(shortened(sorted(os.listdir(folder)))) or 'nothing'}"
    except OSError as error:
        return f"{folder} cannot be listed ({error.strerror})"


def shortened(names: list[str], most: int = 10) -> str:
    """The first `most` names, and the count of the others."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def two_folders(root: str, phase: str) -> tuple[str, str]:
    """The folders of A and of B: {phase}A and {phase}B, or A/{phase} and B/{phase}."""
    for name_A, name_B in ((f"{phase}A", f"{phase}B"), (f"A/{phase}", f"B/{phase}")):
        folders = os.path.join(root, name_A), os.path.join(root, name_B)
        if all(map(os.path.isdir, folders)):
            return folders
    if not os.path.isdir(root):
        raise UserError(_missing(root))
    raise UserError(
        f"no images for --phase {phase} in --dataroot {root}: looked for {phase}A/ with {phase}B/, "
        f"A/{phase}/ with B/{phase}/, and with --dataset_mode aligned (--model pix2pix) for "
        f"{phase}/ with A and B side by side; {contents(root)}. Check --dataroot, --phase"
    )


def pair_by_stem(
    folder_A: str, folder_B: str, ending_A: str = "", ending_B: str = ""
) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Pair the images of two folders by their relative paths without ending and suffix.

    Names that do not end in `ending_A`, `ending_B` are passed over.

    Returns:
        The pairs (path of A, path of B), then the images of A and those of B without a partner.
    """
    A, B = _by_stem(folder_A, ending_A), _by_stem(folder_B, ending_B)
    pairs = [(path, B[stem]) for stem, path in A.items() if stem in B]
    only_A = [path for stem, path in A.items() if stem not in B]
    return pairs, only_A, [path for stem, path in B.items() if stem not in A]


def _by_stem(folder: str, ending: str) -> dict[str, str]:
    """Map each relative path without ending and suffix to its image."""
    paths: dict[str, str] = {}
    for path in list_images(folder):
        file, page = split_page(path)
        stem = os.path.splitext(os.path.relpath(file, folder))[0] + f"/{page}" * (file != path)
        if not stem.endswith(ending):
            continue
        first = paths.setdefault(stem.removesuffix(ending), path)
        if first != path:
            raise UserError(
                f"{first} and {path} have one name before the suffix; rename or remove one"
            )
    return paths
