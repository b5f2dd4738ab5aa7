"""What ends a run between two steps: a signal, or a loss that is not finite.

From a signal to the exit: the handler only notes the signal's number, and the running step ends as
ever. `StepMonitor.after_step` then tells all ranks the number that any of them has noted (on a GPU
one step later, as nobody waits for the device), so that all leave after the same step. `Progress`
sees it in `stop`, saves unless this step was just saved, prints the command that continues the run
and exits with status 128 + number. A second Ctrl-C leaves at once. A loss that is not finite is
told in the same way; it ends the run with a message, and nothing is saved.
"""

import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from util import distributed
from util.errors import UserError

NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]  # Windows has two
Losses = Mapping[str, Tensor | float]
STOPPING = "finishing this step and saving; Ctrl-C again leaves at once\n"


class StepMonitor:
    """Keeps signals until a step is done, and looks at its losses; use it in a `with`.

    All ranks hear of both after the same step, whichever rank they came to.

    Attributes:
        stop: the number of the signal that asks to stop; 0 if none did.
    """

    def __init__(self) -> None:
        """Nothing was asked for."""
        self.stop = 0
        self._signal, self._signal_time = 0, 0.0
        self._flags = distributed.StepFlags()
        self._pending: deque[tuple[str, Losses, Sequence[str]]] = deque()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "StepMonitor":
        """From here on the signals wait."""
        if threading.current_thread() is threading.main_thread():
            wanted = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
            self._handlers = {number: signal.signal(number, self._on_signal) for number in wanted}
        return self

    def __exit__(self, *exception: object) -> None:
        """Signals do again what they did before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._signal:
            # torchrun passes on the Ctrl-C of a terminal, which has reached this process already
            if number == signal.SIGINT and time.monotonic() > self._signal_time + 1:
                raise KeyboardInterrupt
            return
        self._signal, self._signal_time = number, time.monotonic()
        if distributed.is_main():  # not print: it may be what was interrupted
            os.write(2, f"\n{signal.Signals(number).name}: {STOPPING}".encode())

    def after_step(self, where: str, losses: Losses, paths: Sequence[str]) -> None:
        """Tell the other ranks how this one's step went, and hear of theirs.

        A message about the losses says `where` they were, and `paths`, the images of the batch.

        Raises:
            UserError: a loss is not finite, on any of the ranks.
        """
        if distributed.launcher_is_gone():
            self._signal = self._signal or signal.SIGTERM
        self._pending.append((where, losses, paths))
        self._take(self._flags.cast(self._flags_of(losses)))

    def settle(self) -> None:
        """Hear of all steps so far, before something is written that must be good."""
        self._take(self._flags.settle())

    def _flags_of(self, losses: Losses) -> Tensor:
        """(2,): the signal, and 1 if a loss is not finite; on the device of the losses."""
        numbers = [value for value in losses.values() if not isinstance(value, Tensor)]
        tensors = [value.detach() for value in losses.values() if isinstance(value, Tensor)]
        finite = [value.isfinite().all() for value in tensors] or [torch.tensor(True)]
        bad = ~torch.stack([value.to(finite[0].device) for value in finite]).all()
        bad_number = int(not all(map(math.isfinite, numbers)))
        return torch.stack([bad * 0 + self._signal, bad + bad_number]).float()

    def _take(self, flags: list[float]) -> None:
        if not flags:
            return
        self.stop = max(self.stop, int(flags[0]))
        where, losses, paths = self._pending.popleft()
        if flags[1]:
            told = list(filter(None, distributed.gather_everywhere(_bad(losses, paths))))
            raise UserError(
                f"{where}: {told[0]}. Training stopped; the checkpoints are from before that. "
                "Look at these images, or lower --lr and start anew; --continue_train continues "
                "from the last checkpoint"
            )


def _bad(losses: Losses, paths: Sequence[str]) -> str:
    """A phrase about the losses that are not finite and their batch; empty if all are."""
    values = {k: torch.as_tensor(v).detach() for k, v in losses.items()}
    bad = [f"loss {k} is {v.sum().item()}" for k, v in values.items() if not v.isfinite().all()]
    shown = ", ".join(map(str, paths[:4])) + (", …" if len(paths) > 4 else "")
    return f"{', '.join(bad)} in the batch of {shown}" if bad else ""
