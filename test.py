"""Test a trained model: write its outputs, and a page that shows them.

    python test.py --dataroot ./datasets/demo --name demo --model pix2pix

The network options are read from what training saved beside the weights. The images and the page
go to results/NAME/PHASE_EPOCH.
"""
# ruff: noqa: E402

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for a Ctrl-C during the imports

import itertools
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from data import create_dataset
from data.loader import Loader
from data.outputs import Outputs
from models import create_model
from models.base_model import BaseModel
from models.inference.any_size import take_any_size
from models.inference.batching import image_batches
from models.inference.half_precision import to_half_precision
from options.test_options import TestOptions, with_batch_size_1
from util import checkpoint, distributed, rng
from util.devices import on_device
from util.precision import PRECISIONS, configure
from util.reports.results_page import Results
from util.run_record import save_options


def main(argv: Sequence[str] | None = None) -> None:
    """Test as the command line says; `argv` None takes the program's own arguments."""
    distributed.one_process_only()
    opt = TestOptions().parse(argv)
    configure(opt.device, opt.precision, fixed_shapes="crop" in opt.preprocess)
    rng.seed_everything(opt.seed)  # pix2pix keeps its dropout when testing
    loader = create_dataset(with_batch_size_1(opt))
    model = ready_model(opt)
    folder = results_folder(opt)
    with checkpoint.locked_folder(folder, "choose another --results_dir"):
        count = test_images(model, loader, opt, folder)
    where = f"they are in {folder}" if opt.only_output else f"the page is {folder / 'index.html'}"
    distributed.print0(f"tested {count} images; {where}")


def ready_model(opt: Namespace) -> BaseModel:
    """The model with its weights, in the mode and the precision to test it in."""
    model = create_model(opt)
    model.setup(opt)
    if opt.eval:
        model.eval()
    nets = model.named_networks().values()
    take_any_size(nets, 0 if opt.compile else opt.tile, opt.crop_size, results_folder(opt))
    if dtype := PRECISIONS[opt.precision].dtype:
        to_half_precision(nets, dtype)
    return model


def test_images(model: BaseModel, loader: Loader, opt: Namespace, folder: Path) -> int:
    """Write the results of the first --num_test images, in one pass; returns how many."""
    count = int(min(len(loader), opt.num_test))
    images = on_device(itertools.islice(loader, count), opt.device)
    bar = tqdm(total=count, unit="image", disable=not sys.stderr.isatty())
    with Results(opt, folder, Outputs(opt, loader.kinds, loader.trained_kinds)) as results, bar:
        for batch in image_batches(model, images, opt.batch_size, opt.compile):
            model.set_input(batch)
            model.test()
            results.add(model.get_image_paths(), model.get_current_visuals())
            bar.update(len(model.get_image_paths()))
        if not opt.only_output:
            save_options(opt, folder)
    return count


def results_folder(opt: Namespace) -> Path:
    """Where the results go: results/NAME/PHASE_EPOCH, with _iterN for --load_iter."""
    suffix = f"_iter{opt.load_iter}" if opt.load_iter > 0 else ""
    return Path(opt.results_dir) / opt.name / f"{opt.phase}_{opt.epoch}{suffix}"


if __name__ == "__main__":
    distributed.run(main)
