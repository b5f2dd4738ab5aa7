"""Finding image files; every way in which that fails ends in a UserError."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.image_io import SUFFIXES, load_image, pages, split_page
from util.distributed import print0
from util.errors import UserError, one_line

# beside the images of a run; the original writes one, too
OF_A_RUN = ("train_opt.txt", "test_opt.txt", ".written_by_test")
# made by file managers, archives and storage boxes; names that begin with a dot are as well
NO_DATA = ("@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found")
OPTIONAL = {".heic": "pillow-heif", ".heif": "pillow-heif"}  # suffix: what reads it
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
    return _with_pages(make_dataset(dir), max_dataset_size)


def list_frames(path: str, max_dataset_size: float = float("inf")) -> list[str]:
    """As `list_images`, or of one file, in the order of their numbers: frame_2 before frame_10."""
    files = [path] if os.path.isfile(path) else make_dataset(path)
    return _with_pages(sorted(files, key=natural_key), max_dataset_size)


def natural_key(path: str) -> tuple[list[str | int], str]:
    """Sorts runs of digits as numbers, and equal ones by their text."""
    parts = re.split(r"([0-9]+)", path)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path


def _with_pages(files: list[str], max_dataset_size: float) -> list[str]:
    paths = [page for file in files for page in pages(file)]
    return paths[: int(min(max_dataset_size, len(paths)))]


def walk(folder: str) -> Iterator[str]:
    """Yield the images under `folder`, but not those that a run of this program has written.

    What is hidden, and files of other kinds, are left out, and counted in one line. A link back to
    a folder that we are in is not followed.
    """
    left: list[tuple[str, tuple]] = [(folder, ())]  # no recursion: folders may nest deeply
    left_out: Counter[str] = Counter()
    root = folder
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
            is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
            if entry.name.startswith(".") or entry.name.lower() in NO_DATA:
                left_out["hidden folders" if is_folder else "hidden files"] += 1
            elif is_folder:
                left.append((entry.path, (*above, here)))
            elif is_image_file(entry.name):
                yield entry.path
            else:
                suffix = os.path.splitext(entry.name)[1].lower()
                left_out[suffix or "without a suffix"] += 1
    if left_out:
        print0(f"{one_line(root)}: {counted(left_out)}")


def counted(left_out: Counter[str]) -> str:
    """A phrase, 12 left out: 10 .heic, 2 .txt; with what could read them."""
    kinds = [f"{count} {one_line(kind)}" for kind, count in left_out.most_common()]
    needed = sorted({OPTIONAL[kind] for kind in left_out.keys() & OPTIONAL.keys()})
    hint = f" (to read them: pip install {' '.join(needed)})" if needed else ""
    return f"{left_out.total()} left out: {shortened(kinds, 6)}{hint}"


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
    alone = [s for s in "AB" if os.path.isdir(os.path.join(root, phase + s))]
    hint = "".join(
        f". To translate {phase}{side} alone: test.py --model test --dataroot "
        f"{os.path.join(root, phase + side)} --model_suffix _{side}"
        for side in alone
    )
    raise UserError(
        f"no images for --phase {phase} in --dataroot {root}: looked for {phase}A/ with {phase}B/, "
        f"A/{phase}/ with B/{phase}/, and with --dataset_mode aligned (--model pix2pix) for "
        f"{phase}/ with A and B side by side; {contents(root)}. Check --dataroot, --phase{hint}"
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
