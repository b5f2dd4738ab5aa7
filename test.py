"""Test a trained model: write its outputs, and a page that shows them.

    python test.py --dataroot ./datasets/demo --name demo --model pix2pix

The network options are read from what training saved beside the weights. The pictures and the page
go to results/NAME/PHASE_EPOCH.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from data import create_dataset
from models import create_model
from models.base_model import naming_images
from options.saved import save_options
from options.test_options import TestOptions
from util import checkpoint, distributed, randomness
from util.results import Results


def main(argv: Sequence[str] | None = None) -> None:
    """Test as the command line says; `argv` None takes the program's own arguments."""
    distributed.one_process_only()
    opt = TestOptions().parse(argv)
    randomness.seed_everything(opt.seed)  # pix2pix keeps its dropout when testing
    loader = create_dataset(opt)
    model = create_model(opt)
    model.setup(opt)
    if opt.eval:
        model.eval()
    count = int(min(len(loader), opt.num_test))
    folder = results_folder(opt)
    save_options(opt, folder)
    batches = itertools.islice(loader, count)
    with Results(opt, folder) as results, naming_images(model):
        for batch in tqdm(batches, total=count, unit="image", disable=not sys.stderr.isatty()):
            model.set_input(batch)
            model.test()
            results.add(model.get_image_paths(), model.get_current_visuals())
    distributed.say(f"tested {count} images; the page is {folder / 'index.html'}")


def results_folder(opt: argparse.Namespace) -> Path:
    """Where the results go: results/NAME/PHASE_EPOCH, with _iterN for --load_iter."""
    suffix = f"_iter{opt.load_iter}" if opt.load_iter > 0 else ""
    folder = Path(opt.results_dir) / opt.name / f"{opt.phase}_{opt.epoch}{suffix}"
    checkpoint.make_folder(folder / "images")
    return folder


if __name__ == "__main__":
    distributed.run(main)
