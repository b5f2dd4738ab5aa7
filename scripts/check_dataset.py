"""Read a whole dataset before training on it, and list all that is wrong with it.

    python scripts/check_dataset.py --dataroot ./datasets/facades --dataset_mode aligned

Takes the options of train.py, so that sizes are judged by --preprocess, --netG, --netD and so on;
without --model, those of the model that the --dataset_mode is made for (for single pictures, the
options of test.py). Reads every file of --phase and of train, val and test, as training does.

Exit status 0: no problem; 1: problems, listed in one table; 2: the options are wrong, or the data
set is not there; 130: Ctrl-C. A problem is what training stops at, what leaks from training into
testing, or what the networks would see otherwise than the files show it (transparency, CMYK, dark
16 bits, pictures smaller than the crop). A note is what is only good to know (palettes, copies
within a part, pictures with a strange suffix), and does not change the exit status.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.base_dataset import resized_size  # noqa: E402
from data.loader import available_cores  # noqa: E402
from options.base_options import BaseOptions  # noqa: E402
from options.parser import Parser  # noqa: E402
from options.test_options import TestOptions  # noqa: E402
from options.train_options import TrainOptions  # noqa: E402
from scripts.dataset_check.duplicates import Sample, duplicates  # noqa: E402
from scripts.dataset_check.findings import Finding, table  # noqa: E402
from scripts.dataset_check.listing import (  # noqa: E402
    MODES,
    Listing,
    Picture,
    list_files,
    phases,
)
from scripts.dataset_check.pool import results  # noqa: E402
from scripts.dataset_check.reading import Seen, read_ignored, read_picture  # noqa: E402
from scripts.dataset_check.samples import SampleReader, batches_of  # noqa: E402
from scripts.dataset_check.sizes import final_size, misfit, named, unequal_sizes  # noqa: E402
from util import distributed  # noqa: E402

MODEL_OF = {"aligned": "pix2pix", "colorization": "colorization", "single": "test"}


class CheckOptions(BaseOptions):
    """Read a dataset, and list what training or testing on it would stumble over."""

    program = "check_dataset.py"
    needs_data = BaseOptions.needs_data
    model: str | None = None  # the default of --model, if it is not that of train.py

    def initialize(self, parser: Parser) -> None:
        """The options of train.py or test.py; as many processes as there are cores."""
        super().initialize(parser)
        parser.usage = "%(prog)s --dataroot DIR --dataset_mode MODE [options of train.py]"
        parser.set_defaults(num_threads=available_cores())
        if self.model:
            parser.set_defaults(model=self.model)

    def finish(self, opt: argparse.Namespace, *more: Any) -> None:
        """Testing loads in one process; checking does not."""
        wanted = opt.num_threads
        super().finish(opt, *more)
        opt.num_threads = min(wanted, available_cores())


class CheckTraining(CheckOptions, TrainOptions):
    """Read a dataset, and list what training on it would stumble over."""


class CheckTesting(CheckOptions, TestOptions):
    """Read a dataset, and list what testing on it would stumble over."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of training, or of testing where there is nothing to train."""
    argv = list(sys.argv[1:] if argv is None else argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--model")
    first.add_argument("--dataset_mode")
    chosen, _ = first.parse_known_args(argv)
    model = chosen.model or MODEL_OF.get(chosen.dataset_mode)
    options = CheckTesting() if model == "test" else CheckTraining()
    options.model = model
    return options.parse(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table; `argv` None takes the program's own arguments.

    Raises:
        UserError: the dataset is not there.
        SystemExit: with status 1 if there are problems, with 130 after Ctrl-C.
    """
    distributed.one_process_only()
    opt = parse(argv)
    try:
        findings, files = check(opt)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    problems = report(findings, files, opt)
    if problems:
        raise SystemExit(1)


def report(findings: list[Finding], files: int, opt: argparse.Namespace) -> int:
    """Print the table, if there is anything to list, and one line; returns the problems."""
    for line in [*table(findings, opt.dataroot), ""] if findings else []:
        distributed.print0(line)
    problems = sum(not finding.note for finding in findings)
    notes = len(findings) - problems
    counts = f"{counted(problems, 'problem')}" + (f", {counted(notes, 'note')}" if notes else "")
    distributed.print0(
        f"{counted(files, 'file')} in {opt.dataroot} read as {opt.dataset_mode}: {counts}"
    )
    return problems


def counted(number: int, noun: str) -> str:
    """No problems, 1 problem, 2 problems."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def check(opt: argparse.Namespace) -> tuple[list[Finding], int]:
    """Everything about a dataset that is worth a row, and how many files were read.

    Raises:
        UserError: the dataset is not there.
    """
    if opt.dataset_mode in MODES:
        return check_files(opt, list_files(opt))
    return check_samples(opt)


def check_files(opt: argparse.Namespace, listing: Listing) -> tuple[list[Finding], int]:
    """A dataset whose layout we know: every file is read once."""
    findings, seen = read_files(listing.pictures, opt, listing.ignored)
    sizes = {picture.path: found.size for picture, found in seen.items() if found.size}
    findings += listing.findings
    findings += judge_sizes(opt, seen)
    findings += judge_pairs(opt, listing.pairs, sizes)
    samples = samples_of(listing.pairs, seen)
    findings += duplicates(samples, opt.dataroot, phases(opt))
    return findings, len(listing.pictures)


def check_samples(opt: argparse.Namespace) -> tuple[list[Finding], int]:
    """Somebody's own dataset: every sample is read through it, and then the files it names."""
    reader = SampleReader(opt)
    seen, findings, files = [], [], {}
    for sample, result in progress(reader, reader.samples(), opt, "sample"):
        if result is None:
            findings.append(deadly(reader.name(sample)))
            continue
        findings += result.findings
        seen.append((sample, result))
        for path in result.paths:
            files.setdefault(path, Picture(path, sample[0]))
    for sizes in batches_of(opt, seen, reader):
        findings += unequal_sizes(opt, sizes)
    more, pictures = read_files(list(files.values()), opt)
    findings += more + list(duplicates(samples_of([], pictures), opt.dataroot, phases(opt)))
    return list(dict.fromkeys(findings)), len(files) or len(seen)


def read_files(
    pictures: list[Picture], opt: argparse.Namespace, ignored: Iterable[str] = ()
) -> tuple[list[Finding], dict[Picture, Seen]]:
    """Read all files in processes; returns what is wrong with them, and what stays of them."""
    findings, seen = [], {}
    task = partial(read_file, colour=opt.dataset_mode == "colorization")
    for item, result in progress(task, [*pictures, *ignored], opt, "file"):
        if result is None:
            findings.append(deadly(item.path if isinstance(item, Picture) else item))
            continue
        findings += result.findings
        if result.digests:
            seen[item] = result._replace(findings=[])
    return findings, seen


def read_file(item: Picture | str, colour: bool) -> Seen:
    """Read a picture of the dataset, or look into a file that no dataset reads."""
    return read_ignored(item) if isinstance(item, str) else read_picture(item, colour)


def deadly(path: str) -> Finding:
    """The row of a file that ends the process that reads it."""
    remedy = "replace it, or free memory: the process that read it was killed, twice"
    return Finding("kills its reader", path, remedy)


def progress(
    task: Callable[[Any], Any], items: list[Any], opt: argparse.Namespace, unit: str
) -> Iterator[tuple[Any, Any]]:
    """Results of all items, with a bar if somebody is watching."""
    done = results(task, items, min(opt.num_threads, len(items)))
    return iter(tqdm(done, total=len(items), unit=unit, leave=False, disable=None))


def judge_sizes(opt: argparse.Namespace, seen: dict[Picture, Seen]) -> Iterator[Finding]:
    """Pictures of a size that the options cannot use."""
    batches: dict[str, dict[str, tuple[int, int]]] = {}
    for picture, found in seen.items():
        trained = opt.isTrain and picture.phase == opt.phase
        trouble = misfit(opt, found.size, trained)
        if trouble:
            yield Finding(trouble[0], picture.path, trouble[1])
        elif picture.phase == opt.phase:
            sizes = batches.setdefault(picture.side, {})
            sizes[picture.path] = final_size(opt, found.size)
    for sizes in batches.values():
        yield from unequal_sizes(opt, sizes)


def judge_pairs(
    opt: argparse.Namespace, pairs: list[tuple[str, str]], sizes: dict[str, tuple[int, int]]
) -> Iterator[Finding]:
    """A and B of a pair, in two files, that differ in size."""
    for A, B in pairs:
        if A not in sizes or B not in sizes or sizes[A] == sizes[B]:
            continue
        if resized_size(opt, sizes[A]) == resized_size(opt, sizes[B]):
            remedy = "none: both are scaled to one size; see that they still show the same part"
            yield Finding("A and B of a pair differ in size", A, remedy, note=True)
        else:
            problem = f"{named(sizes[A])}, and its partner is {named(sizes[B])}"
            remedy = "make the two equal in size, or use --preprocess resize_and_crop"
            yield Finding(problem, A, remedy)


def samples_of(pairs: list[tuple[str, str]], seen: dict[Picture, Seen]) -> Iterator[Sample]:
    """What is compared: pairs as a whole, everything else file by file."""
    by_path = {picture.path: (picture, found) for picture, found in seen.items()}
    paired = {path for pair in pairs for path in pair}
    for A, B in pairs:
        if A in by_path and B in by_path:
            digests = by_path[A][1].digests + by_path[B][1].digests
            yield Sample(A, by_path[A][0].phase, digests)
    for picture, found in seen.items():
        if picture.path not in paired:
            yield Sample(picture.path, picture.phase, found.digests)


if __name__ == "__main__":
    distributed.run(main)
