"""Which files a dataset is made of, in every layout that the datasets here read."""

import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from data.aligned_dataset import no_pairs
from data.image_folder import SUFFIXES, is_image_file, missing_folder, two_folders, walk
from data.unaligned_dataset import no_sets
from scripts.dataset_check.findings import Finding
from util.errors import UserError

TWO_SIDED = ("aligned", "unaligned")
MODES = (*TWO_SIDED, "colorization", "single")  # any other is somebody's own, and unknown here


class Picture(NamedTuple):
    """An image file, the part of the dataset it is in, and which side it shows."""

    path: str
    phase: str
    side: str = ""  # "A", "B", "AB" for both side by side, "" where there are no sides


@dataclass
class Listing:
    """All files of a dataset, and what their names alone tell."""

    pictures: list[Picture] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)  # the paths of A and B
    ignored: list[str] = field(default_factory=list)  # files whose names are no images'
    findings: list[Finding] = field(default_factory=list)


def phases(opt: Namespace) -> list[str]:
    """The parts to look for: the usual ones and --phase; what leaks, leaks from the first."""
    if opt.dataset_mode == "single":
        return [opt.phase]  # which plays no part there
    return list(dict.fromkeys(["train", opt.phase, "val", "test"]))


def list_files(opt: Namespace) -> Listing:
    """List what is there of every part.

    Raises:
        UserError: the part that --phase names is not there at all.
    """
    listing = Listing()
    for phase in phases(opt):
        folders = folders_of(opt.dataset_mode, opt.dataroot, phase)
        if folders:
            add_phase(listing, opt, phase, folders)
        elif phase == opt.phase:
            raise UserError(nothing_there(opt))
        elif opt.dataset_mode in TWO_SIDED:
            listing.findings += lone_folders(opt.dataroot, phase)
    return listing


def folders_of(mode: str, root: str, phase: str) -> dict[str, str]:
    """{side: folder} of one part of the dataset, as its dataset looks for them; {} if missing."""
    whole = root if mode == "single" else os.path.join(root, phase)
    if mode != "unaligned" and os.path.isdir(whole):
        return {"AB" if mode == "aligned" else "": whole}
    both = two_folders(root, phase) if mode in TWO_SIDED else None
    return dict(zip("AB", both, strict=True)) if both else {}


def nothing_there(opt: Namespace) -> str:
    """What training would say to it."""
    if opt.dataset_mode in TWO_SIDED:
        return {"aligned": no_pairs, "unaligned": no_sets}[opt.dataset_mode](
            opt.dataroot, opt.phase
        )
    single = opt.dataset_mode == "single"
    return missing_folder(opt.dataroot if single else os.path.join(opt.dataroot, opt.phase))


def lone_folders(root: str, phase: str) -> Iterator[Finding]:
    """A folder of A without one of B, or the other way round."""
    for pattern in ("{phase}{side}", "{side}/{phase}"):
        A, B = (os.path.join(root, pattern.format(phase=phase, side=side)) for side in "AB")
        for there, missing in ((A, B), (B, A)):
            if os.path.isdir(there) and not os.path.isdir(missing):
                other = os.path.relpath(missing, root)
                yield Finding("one side only", there, f"add the folder {other}, or remove this one")


def add_phase(listing: Listing, opt: Namespace, phase: str, folders: dict[str, str]) -> None:
    """List the files of one part, as far as --max_dataset_size."""
    found = {side: images(folder, listing) for side, folder in folders.items()}
    if opt.dataset_mode == "aligned" and len(found) == 2:
        pairs = match(folders, found, listing.findings)
        listing.pairs += pairs
        found = {"A": [A for A, _ in pairs], "B": [B for _, B in pairs]}
    for side, paths in found.items():
        paths = paths[: int(min(opt.max_dataset_size, len(paths)))]
        listing.pictures += [Picture(path, phase, side) for path in paths]


def images(folder: str, listing: Listing) -> list[str]:
    """The images under a folder, sorted; what is wrong with the folder goes to the findings."""
    try:
        paths = sorted(walk(folder))
    except UserError as error:
        listing.findings.append(Finding("a folder cannot be listed", folder, str(error)))
        return []
    listing.ignored += others(folder)
    if not paths:
        remedy = f"add pictures; files count whose names end in {', '.join(SUFFIXES)}"
        listing.findings.append(Finding("no pictures", folder, remedy))
    return paths


def others(folder: str) -> Iterator[str]:
    """The files that no dataset reads because of their names; hidden ones are left alone."""
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and not is_image_file(name):
                yield os.path.join(here, name)


def match(
    folders: dict[str, str], found: dict[str, list[str]], findings: list[Finding]
) -> list[tuple[str, str]]:
    """Pair A with B by their names before the suffix; the others become findings."""
    A, B = (by_stem(folders[side], found[side], findings) for side in "AB")
    for mine, theirs, other in ((A, B, folders["B"]), (B, A, folders["A"])):
        for stem in mine.keys() - theirs.keys():
            place = os.path.join(os.path.basename(other), stem)
            remedy = f"add its partner {place}.*, or remove it"
            findings.append(Finding("no partner", mine[stem], remedy))
    return [(A[stem], B[stem]) for stem in A if stem in B]


def by_stem(folder: str, paths: list[str], findings: list[Finding]) -> dict[str, str]:
    """{relative path without suffix: path}; a second one becomes a finding."""
    stems: dict[str, str] = {}
    for path in paths:
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        if stem in stems:
            remedy = f"rename or remove it, or {os.path.basename(stems[stem])}"
            findings.append(Finding("two with one name before the suffix", path, remedy))
        stems.setdefault(stem, path)
    return stems
