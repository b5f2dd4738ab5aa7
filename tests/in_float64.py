"""train.py with float64 as the default type: rounding then hides nothing. Run by torchrun."""

import functools
import itertools
import os
import signal
import sys

import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import train  # noqa: E402
from util import distributed  # noqa: E402
from util.training.interrupts import StepMonitor  # noqa: E402

torch.set_default_dtype(torch.float64)

if "--bypass_wrapper" in sys.argv:  # what the wrapper is for: plain batch norm under DDP
    sys.argv.remove("--bypass_wrapper")
    distributed.sync_batch_norm.convert = lambda net: net

if "--stop_after" in sys.argv:  # a signal that comes after so many steps of this process
    at = sys.argv.index("--stop_after")
    steps = itertools.count(1)
    after_step, last = StepMonitor.after_step, int(sys.argv[at + 1])
    del sys.argv[at : at + 2]

    def count_and_stop(self, *step):
        if next(steps) == last:
            self._on_signal(signal.SIGTERM, None)
        after_step(self, *step)

    StepMonitor.after_step = count_and_stop

if __name__ == "__main__":
    for line in sys.argv[1:]:  # each argument is a command line
        distributed.run(functools.partial(train.main, line.split()))
