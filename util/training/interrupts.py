"""What ends a run between two steps: a signal, or a loss that is not finite.

From a signal to the exit: the handler only notes the signal's number, and ends the wait for the
next batch. `agree` tells it to all ranks, so that all leave after the same step. `Progress` then
sees `stop`, saves unless this step was just saved, and calls `leave`: it prints how to continue and
exits with 128 + number. A second Ctrl-C exits at once, without saving.
"""

import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import NoReturn

import torch
from torch import Tensor

from util import distributed
from util.errors import UserError

NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]  # Windows has two
STOPPING = "finishing this step and saving; Ctrl-C again leaves at once"
Losses = Mapping[str, Tensor | float]


class StopWaiting(BaseException):
    """A signal has come while the next batch was waited for."""


class StepMonitor(ExitStack):
    """Keeps signals until a step is done, and looks at its losses; use it in a `with`.

    `stop` is the number of the signal, to any of the ranks, that asks to stop; 0 if none did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stop = 0
        self._signal, self._signal_time, self._waiting = 0, 0.0, False
        self._flags = distributed.StepFlags()
        self._pending: deque[tuple[str, Losses, Sequence[str]]] = deque()

    def __enter__(self) -> "StepMonitor":
        main = threading.current_thread() is threading.main_thread()  # others cannot
        for number in SIGNALS if main else ():
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                self.callback(signal.signal, number, signal.signal(number, self._on_signal))
        return self

    def _on_signal(self, number: int, frame: object) -> None:
        if self._signal:
            # torchrun passes on the Ctrl-C of a terminal, which has reached this process already
            if number == signal.SIGINT and time.monotonic() > self._signal_time + 1:
                raise KeyboardInterrupt
            return
        self._signal, self._signal_time = number, time.monotonic()
        if distributed.is_main():
            message = f"\n{signal.Signals(number).name}: {STOPPING}\n"
            with suppress(OSError):  # the terminal is what has closed
                os.write(2, message.encode())  # not print: it may be what was interrupted
        if self._waiting:
            raise StopWaiting

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block, in which nothing is lost, that a signal ends by StopWaiting."""
        self._waiting = True
        try:
            if self._signal:
                raise StopWaiting
            yield
        finally:
            self._waiting = False

    def after_step(self, where: str, losses: Losses, paths: Sequence[str]) -> None:
        """Exchange with the other ranks how this step went; UserError if a loss is not finite."""
        self._pending.append((where, losses, paths))
        self._take(self._flags.cast(_are_bad(losses.values())))

    def agree(self, trouble: bool) -> bool:
        """Whether any rank has trouble; the ranks tell each other their signals, too."""
        if distributed.launcher_is_gone():
            self._signal = self._signal or signal.SIGTERM
        stop, troubled = distributed.maxima([self._signal, trouble])
        self.stop = int(stop)
        return bool(troubled)

    def settle(self) -> None:
        """Hear of all steps so far, before something is written that must be good."""
        self._take(self._flags.settle())

    def leave(self, done: str) -> NoReturn:
        """Exit as `stop` asks, on all ranks at once; `done` ends the message."""
        distributed.barrier()  # torchrun ends the others as soon as one has left
        distributed.print0(f"stopped by {signal.Signals(self.stop).name} {done}")
        raise SystemExit(128 + self.stop)

    def _take(self, flags: list[float]) -> None:
        """Act on bad losses of a step; there are no flags on a GPU's first step."""
        if not flags:
            return
        where, losses, paths = self._pending.popleft()
        if flags[0]:
            told = list(filter(None, distributed.gather_everywhere(_bad(losses, paths))))
            raise UserError(
                f"{where}: {told[0]}. Look at these images, or start anew with a lower --lr; "
                "--continue_train continues from the last checkpoint, made before that"
            )


@torch.no_grad()
def _are_bad(losses: Collection[Tensor | float]) -> Tensor:
    """(1,) float32: whether a loss is not finite; does not wait for the device."""
    values = [torch.as_tensor(value).reshape(-1) for value in losses]
    bad = not all(v.isfinite().all() for v in values if v.device.type == "cpu")
    on_device = [value for value in values if value.device.type != "cpu"]
    if not on_device:
        return torch.tensor([bad], dtype=torch.float32)
    nan_if_bad = torch.cat(on_device).mul(math.nan if bad else 0).sum()  # few and small kernels
    return nan_if_bad.isnan().float()[None]


def _bad(losses: Losses, paths: Sequence[str]) -> str:
    """A phrase about the losses that are not finite and their batch; empty if all are."""
    sums = {name: torch.as_tensor(value).sum() for name, value in losses.items()}
    found = {name: value for name, value in sums.items() if not value.isfinite()}
    bad = [f"loss {name} is {value.item()}" for name, value in found.items()]
    shown = ", ".join(map(str, paths[:4])) + (", …" if len(paths) > 4 else "")
    return f"{', '.join(bad)} in the batch of {shown}" if bad else ""
