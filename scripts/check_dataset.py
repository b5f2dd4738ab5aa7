"""Read a whole dataset before training on it, and list all that is wrong with it.

    python scripts/check_dataset.py --dataroot ./datasets/facades --dataset_mode aligned

Takes the options of train.py, so that sizes are judged by --preprocess, --netG, --netD and so on;
without --model, those of the model that the --dataset_mode is made for (for single images, the
options of test.py). Reads every sample and every file of --phase and of train, val and test.

Exit status 0: no problem; 1: problems, one a line; 2: the options are wrong, the dataset is not
there, or a process that reads was killed; 130: Ctrl-C. A problem is what training stops at, what
leaks from training into testing, or what the networks see otherwise than the files show it. A
note, such as a copy within a part, does not change the exit status.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models  # noqa: E402
from data import find_dataset_using_name  # noqa: E402
from data.base_dataset import BaseDataset  # noqa: E402
from data.image_folder import is_image_file  # noqa: E402
from data.image_io import split_page  # noqa: E402
from data.image_reader import ImageReader  # noqa: E402
from data.kinds import find_kinds, saved_kinds  # noqa: E402
from data.loader import available_cores, explain_worker_trouble, ignore_signals  # noqa: E402
from models.networks import GENERATORS, size_problem  # noqa: E402
from options.parser import Parser  # noqa: E402
from options.test_options import TestOptions  # noqa: E402
from options.train_options import TrainOptions  # noqa: E402
from scripts.dataset_check.reading import Checks, Seen, named  # noqa: E402
from util import checkpoint, distributed  # noqa: E402
from util.errors import UserError, one_line  # noqa: E402

MODEL_OF = {"aligned": "pix2pix", "colorization": "colorization", "single": "test"}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of training, or of testing where there is nothing to train."""
    argv = list(sys.argv[1:] if argv is None else argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--model")
    first.add_argument("--dataset_mode")
    chosen, _ = first.parse_known_args(argv)
    model = chosen.model or MODEL_OF.get(chosen.dataset_mode)

    class CheckOptions(TestOptions if model == "test" else TrainOptions):  # type: ignore[misc]
        """Read a dataset, and list what training or testing on it would stumble over."""

        program = "check_dataset.py"

        def initialize(self, parser: Parser) -> None:
            super().initialize(parser)
            parser.usage = "%(prog)s --dataroot DIR --dataset_mode MODE [options of train.py]"
            parser.set_defaults(num_threads=available_cores(), **{"model": model} if model else {})

        def finish(self, opt: argparse.Namespace) -> None:
            wanted = opt.num_threads  # testing loads in one process; checking does not
            super().finish(opt)
            opt.num_threads = min(wanted, available_cores())
            self.fit_what_is_not_given(opt)

        def fit_what_is_not_given(self, opt: argparse.Namespace) -> None:
            """Sizes and networks that nobody chose must not stop the check."""
            if "load_size" not in self.given:
                opt.load_size = max(opt.load_size, opt.crop_size)
            if "crop_size" not in self.given:
                opt.crop_size = min(opt.load_size, opt.crop_size)
            size = opt.load_size if opt.preprocess == "scale_width" else opt.crop_size
            row = GENERATORS.get(opt.netG)
            if row and size_problem(size, size, row.multiple, row.minimum):
                opt.netG = opt.netG if "netG" in self.given else "resnet_9blocks"
            if opt.input_nc != opt.output_nc and "lambda_identity" not in self.given:
                opt.lambda_identity = 0.0  # of CycleGAN

    return CheckOptions().parse(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program; `argv` None takes its own arguments. SystemExit and UserError as above."""
    distributed.one_process_only()
    opt = parse(argv)
    try:
        problems = report(opt)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if problems:
        raise SystemExit(1)


def report(opt: argparse.Namespace) -> int:
    """Print what is wrong, what is good to know, and a summary; returns the number of problems."""
    datasets, problems = build_all(opt)
    samples, files = read(opt, datasets)
    problems += [text for seen in (*samples, *files) for text in seen.problems]
    problems += unequal_in_batches(opt, samples)
    leaks, notes = compare(datasets, files)
    problems = sorted({*problems, *leaks})
    for kind, texts in (("problem", problems), ("note", notes)):
        for text in texts:
            distributed.print0(f"{kind}: {one_line(text)}")
    for phase in datasets:
        distributed.print0(summary(opt, phase, samples, files))
    distributed.print0(
        f"{counted(len(files), 'file')} in {opt.dataroot} read as {opt.dataset_mode}: "
        f"{counted(len(problems), 'problem')}" + (f", {counted(len(notes), 'note')}" * bool(notes))
    )
    return len(problems)


def counted(number: int, noun: str) -> str:
    """No problems, 1 problem, 2 problems."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def build_all(opt: argparse.Namespace) -> tuple[dict[str, BaseDataset], list[str]]:
    """The dataset of every part that is there, and why others cannot be built.

    Raises:
        UserError: nothing is there of --phase.
    """
    single = opt.dataset_mode == "single"  # where --phase plays no part
    phases = [opt.phase] if single else dict.fromkeys(["train", opt.phase, "val", "test"])
    kind = find_dataset_using_name(opt.dataset_mode)
    datasets, problems = {}, []
    for phase in phases:
        names = [""] if single else [phase, f"{phase}A", f"{phase}B", f"A/{phase}", f"B/{phase}"]
        there = any(os.path.isdir(os.path.join(opt.dataroot, name)) for name in names)
        try:
            dataset = kind(argparse.Namespace(**{**vars(opt), "phase": phase}))
            find_kinds(dataset, {} if opt.isTrain else saved_kinds(checkpoint.folder(opt)))
            datasets[phase] = dataset
        except Exception as error:  # a plug-in may raise anything where it has no such part
            if there and isinstance(error, UserError):
                problems.append(f"--phase {phase} is not read: {error}")
            elif there or phase == opt.phase:
                raise
    return datasets, problems


def read(
    opt: argparse.Namespace, datasets: dict[str, BaseDataset]
) -> tuple[list[Seen], list[Seen]]:
    """Read all samples, and then the files that were not read for one."""
    checks = Checks(opt, models.find_model_using_name(opt.model).needs)
    for phase, dataset in datasets.items():
        for reader, _ in dataset.to_cache():
            checks.watch(phase, reader)
        count = int(min(opt.max_dataset_size, len(dataset)))
        checks.tasks += [partial(checks.sample, phase, dataset, i) for i in range(count)]
    samples, files = [], {}
    for sample, *others in results(checks, opt.num_threads):
        samples.append(sample)
        files.update({seen.name: seen for seen in others})
    tasks: dict[str, Callable[[], list[Seen]]] = {}
    as_it_is = argparse.Namespace(**{**vars(opt), "preprocess": "none"})
    for phase, dataset in datasets.items():
        plain = checks.watch(phase, ImageReader(as_it_is, image=3))
        listed = [(reader.read, p) for reader, paths in dataset.to_cache() for p in paths]
        others = [(plain.decode, p) for seen in samples if seen.phase == phase for p in seen.paths]
        for read_file, path in (*listed, *others):
            if is_image_file(split_page(path)[0]):
                tasks.setdefault(path, partial(checks.file, phase, read_file, path))
    checks.tasks = [task for path, task in tasks.items() if path not in files]
    files.update({seen.name: seen for (seen,) in results(checks, opt.num_threads)})
    return samples, [files[path] for path in tasks]


def results(checks: Checks, processes: int) -> Iterator[list[Seen]]:
    """Yield all results in order, with a bar if somebody is watching."""
    workers, init = min(processes, len(checks)), ignore_signals
    loader = DataLoader(checks, batch_size=None, num_workers=workers, worker_init_fn=init)
    with explain_worker_trouble(workers):
        yield from tqdm(loader, leave=False, disable=None)


def unequal_in_batches(opt: argparse.Namespace, samples: list[Seen]) -> Iterator[str]:
    """The images whose size keeps them out of a batch with most others."""
    trained = [seen for seen in samples if seen.phase == opt.phase]
    for side in "AB" if opt.batch_size > 1 else "":
        counts = Counter(seen.sizes[side] for seen in trained if side in seen.sizes)
        usual = max(counts, key=lambda size: (counts[size], size), default=None)
        for seen in trained:
            if side in seen.sizes and seen.sizes[side] != usual:
                yield (
                    f"{(seen.paths or [seen.name])[side == 'B' and len(seen.paths) > 1]}: {side} "
                    f"is {named(seen.sizes[side])}, and most are {named(usual)}; for --batch_size "
                    f"{opt.batch_size} make all equal, or use --preprocess resize_and_crop"
                )


def compare(datasets: dict[str, BaseDataset], files: list[Seen]) -> tuple[list[str], list[str]]:
    """Images, or pairs, that are there twice: problems (in two parts) and notes (in one).

    A note is also a pair of two sizes, which only resizing makes equal.
    """
    read = {seen.name: seen for seen in files if seen.digests}
    first: dict[tuple[bytes, ...], tuple[str, str]] = {}
    problems, notes = [], []
    for phase, dataset in datasets.items():
        pairs = list(getattr(dataset, "pairs", []))
        paired = {path for pair in pairs for path in pair}
        pairs += [(s.name, s.name) for s in files if s.phase == phase and s.name not in paired]
        for A, B in (pair for pair in pairs if read.keys() >= set(pair)):
            other, where = first.setdefault(read[A].digests + read[B].digests, (A, phase))
            if where != phase:
                problems.append(f"{A} of {phase} is the same as {other} of {where}; remove one")
            elif other != A:
                notes.append(f"{A} is the same as {other}")
            if read[A].size != read[B].size:
                sizes = f"{named(read[A].size)} and {B} is {named(read[B].size)}"
                notes.append(f"{A} is {sizes}; see that they show the same part when resized")
    return problems, notes


def summary(opt: argparse.Namespace, phase: str, samples: list[Seen], files: list[Seen]) -> str:
    """The sizes of one part, in the files and after preprocessing."""
    mine = [seen for seen in samples if seen.phase == phase]
    sizes = [seen.size for seen in files if seen.phase == phase and seen.size]
    text = f"{phase}: {counted(len(mine), 'sample')}"
    if sizes:
        low, high = ((f(w for w, _ in sizes), f(h for _, h in sizes)) for f in (min, max))
        text += f", images of {named(low)}" + (f" to {named(high)}" * (low != high))
    final = Counter(size for seen in mine for size in seen.sizes.values()).most_common(3)
    most = ", ".join(f"{named(size)} ({count})" for size, count in final)
    return text + (f"; after --preprocess {opt.preprocess}: {most}" if most else "")


if __name__ == "__main__":
    distributed.run(main)
