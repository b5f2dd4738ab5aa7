"""Download a public dataset or pretrained model of pix2pix or CycleGAN.

    python scripts/download.py cyclegan-dataset horse2zebra
    python scripts/download.py cyclegan-model horse2zebra

A download that was interrupted is resumed by the same command.
"""

import argparse
import difflib
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.fetch import discard, fetch
from scripts.unpack import unpack
from util.errors import UserError, one_message
from util.files import locked

ROOT = Path(__file__).resolve().parents[1]
BASE_URL = "http://efrosgans.eecs.berkeley.edu"
NOTE = "downloaded_from.txt"  # beside what was downloaded: its address
CITYSCAPES = (
    "cityscapes is no longer given out here, its licence forbids it. Get it from "
    "https://www.cityscapes-dataset.com and combine photos and label maps with "
    "scripts/combine_A_and_B.py; or name a mirror that may give it out with --base_url"
)


def save_model(part: Path, target: Path, suffix: str) -> None:
    """Move `part` to `target`, once it is seen to hold weights."""
    import torch  # slow to import, and datasets do not need it

    from util.checkpoint.safe_load import screen

    try:
        screen(part)
        state = torch.load(part, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the unpickler raises nearly anything at a broken file
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"not a whole {suffix} file of weights ({reason})") from error
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise UserError("not a state dict: a table of names and tensors")
    os.replace(part, target)


class Kind(NamedTuple):
    """Where one kind of thing is found, where it goes, and which there are."""

    address: str
    suffix: str
    target: str
    save: Callable[[Path, Path, str], None]
    names: list[str]


GENERATOR = "checkpoints/{}_pretrained/latest_net_G.pth"
# fmt: off
KINDS = {
    "cyclegan-dataset": Kind(
        "cyclegan/datasets", ".zip", "datasets/{}", unpack,
        "apple2orange summer2winter_yosemite horse2zebra monet2photo cezanne2photo ukiyoe2photo "
        "vangogh2photo maps cityscapes facades iphone2dslr_flower ae_photos mini mini_pix2pix "
        "mini_colorization".split()),
    "pix2pix-dataset": Kind(
        "pix2pix/datasets", ".tar.gz", "datasets/{}", unpack,
        "cityscapes night2day edges2handbags edges2shoes facades maps".split()),
    "cyclegan-model": Kind(
        "cyclegan/pretrained_models", ".pth", GENERATOR, save_model,
        "apple2orange orange2apple summer2winter_yosemite winter2summer_yosemite horse2zebra "
        "zebra2horse monet2photo style_monet style_cezanne style_ukiyoe style_vangogh sat2map "
        "map2sat cityscapes_photo2label cityscapes_label2photo facades_photo2label "
        "facades_label2photo iphone2dslr_flower".split()),
    "pix2pix-model": Kind(
        "pix2pix/models-pytorch", ".pth", GENERATOR, save_model,
        "edges2shoes sat2map map2sat facades_label2photo day2night".split()),
}
# fmt: on


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    lists = "\n".join(f"{kind}: {' '.join(row.names)}" for kind, row in KINDS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=lists, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name", nargs="?", default="", help="which one; the lists are below")
    parser.add_argument("--base_url", default=BASE_URL, help="a mirror with the same paths")
    parser.add_argument(
        "--out", type=Path, help="folder instead of datasets or checkpoints in the repository"
    )
    return parser.parse_args(argv)


def check(kind: str, name: str, base_url: str) -> None:
    """Raise UserError for a name or an address that cannot work."""
    names = KINDS[kind].names
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        wrong = f"no {kind} is called {name!r}; {hint}" if name else f"which {kind}? "
        raise UserError(f"{wrong}Known: {', '.join(names)}")
    if name == "cityscapes" and base_url == BASE_URL:
        raise UserError(CITYSCAPES)
    if not base_url.startswith(("http://", "https://")):
        raise UserError(f"--base_url {base_url} must start with http:// or https://")
    if KINDS[kind].suffix == ".tar.gz" and not hasattr(tarfile, "data_filter"):
        raise UserError("a tar.gz is unpacked safely by Python 3.10.12, 3.11.4 or newer; use that")


def target_path(kind: str, name: str, out: Path | None) -> Path:
    """Where it goes: below `out`, or below the folder of the repository that test.py looks in."""
    folder, _, inner = KINDS[kind].target.format(name).partition("/")
    return Path(os.path.relpath(ROOT / folder) if out is None else out) / inner


def note_of(target: Path) -> Path:
    """Where the address of `target`, a folder or a file in its own folder, is noted."""
    return (target if target.is_dir() else target.parent) / NOTE


def check_source(target: Path, path: str) -> None:
    """Raise UserError if `target` came from another path of the server, so is something else."""
    note = note_of(target)
    source = note.read_text().strip() if note.exists() else ""
    if source and not source.endswith(f"/{path}"):
        raise UserError(
            f"{target} is already there, but from {source}, and you ask for {path}, which is not "
            "the same; name another folder with --out, or remove this one"
        )


def download(url: str, target: Path, suffix: str, save: Callable[[Path, Path, str], None]) -> None:
    """Download `url`, `save` it as `target` and note its address; UserError for any failure."""
    lock = target.with_name(f".{target.name}.lock")
    try:
        with locked(lock, target, "name another folder with --out"):
            _download(url, target, suffix, save)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or target}: {error.strerror or error}; "
            "make room or get permission there, or name another folder with --out"
        ) from error


def _download(url: str, target: Path, suffix: str, save: Callable[[Path, Path, str], None]) -> None:
    # beside datasets the archive bears its own name, so that two kinds do not meet
    part = fetch(url, target if target.suffix == suffix else Path(f"{target}{suffix}"))
    try:
        save(part, target, suffix)
    except UserError as error:
        discard(part)
        raise UserError(
            f"what {url} sent is useless and was deleted: {error}. "
            "Try again, or name a mirror with --base_url"
        ) from error
    discard(part)
    note_of(target).write_text(f"{url}\n")


def main(argv: list[str] | None = None) -> None:
    """Run the program; UserError has the whole message."""
    args = parse(argv)
    check(args.kind, args.name, args.base_url)
    kind = KINDS[args.kind]
    target = target_path(args.kind, args.name, args.out)
    path = f"{kind.address}/{args.name}{kind.suffix}"
    if target.exists():
        check_source(target, path)
        print(f"{target} is already there; remove it to download it again")
        return
    url = f"{args.base_url.rstrip('/')}/{path}"
    print(f"{url} -> {target}", flush=True)
    download(url, target, kind.suffix, kind.save)
    print(f"{target} is ready")


if __name__ == "__main__":
    try:
        with one_message():
            main()
    except KeyboardInterrupt:
        print("stopped; the same command resumes here", file=sys.stderr)
        sys.exit(130)
