"""train.py with float64 as the default type: rounding then hides nothing. Run by torchrun."""

import functools
import os
import sys

import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import train  # noqa: E402
from util import distributed  # noqa: E402

torch.set_default_dtype(torch.float64)

if "--bypass_wrapper" in sys.argv:  # what the wrapper is for: plain batch norm under DDP
    sys.argv.remove("--bypass_wrapper")
    distributed.sync_batch_norm.convert = lambda net: net

if __name__ == "__main__":
    for line in sys.argv[1:]:  # each argument is a command line
        distributed.run(functools.partial(train.main, line.split()))
