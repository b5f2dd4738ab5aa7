"""How the processes that load images meet signals, and how they end."""

import atexit
import os
import signal
import weakref

from torch.utils.data import DataLoader

LOOKS = 10  # seconds between two looks at the training process


def leave_signals_to_training(worker: int) -> None:
    """For `worker_init_fn`: a signal to the whole job must not take the data of its last step away.

    Ctrl-C in a terminal, `scancel` and the like reach every process. The training process then
    finishes a step and ends its workers. Should it be unable to, they end by themselves.
    """
    for name in ("SIGINT", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        parent = os.getppid()
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LOOKS))
        signal.signal(signal.SIGALRM, lambda *_: _stay_with(parent))


def _stay_with(parent: int) -> None:
    if os.getppid() != parent:
        os._exit(0)
    signal.alarm(LOOKS)


def end_workers_at_exit(batches: DataLoader) -> None:
    """End the workers when the program ends; Python's own signal to them they would not obey."""
    atexit.register(_end_workers, weakref.ref(batches))


def _end_workers(reference: weakref.ref) -> None:
    iterator = getattr(reference(), "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
