"""What may end a run between two steps: a signal to stop, or a loss that is no number any more."""

import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from util import distributed
from util.errors import UserError

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)
]
STOPPING = "finishing this step and saving; Ctrl-C again leaves at once\n"


class Step(NamedTuple):
    """What is told of a step whose losses are bad."""

    where: str
    losses: Mapping[str, Tensor | float]
    paths: Sequence[str]


class Watch:
    """Keeps SIGTERM, SIGINT and SIGUSR1 until a step is done, and looks at the losses of each.

    All ranks hear of both after the same step, whichever rank they came to. Use it in a `with`.

    Attributes:
        stop: the number of the signal that asks to stop; 0 if none did.
    """

    def __init__(self) -> None:
        """Nothing was asked for."""
        self.stop = 0
        self._vote = distributed.StepFlags()
        self._steps: deque[Step] = deque()
        self._asked, self._asked_at = 0, 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Watch":
        """From here on the signals wait."""
        if threading.current_thread() is threading.main_thread():
            wanted = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
            self._before = {number: signal.signal(number, self._ask) for number in wanted}
        return self

    def __exit__(self, *exception: object) -> None:
        """Signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        # torchrun passes on the Ctrl-C of a terminal, which has reached this process already
        late = time.monotonic() > self._asked_at + 1
        again = self._asked and number == signal.SIGINT and late
        if again:
            raise KeyboardInterrupt
        if not self._asked:
            self._asked, self._asked_at = number, time.monotonic()
            if distributed.is_main():
                line = f"\n{signal.Signals(number).name}: {STOPPING}"
                os.write(
                    2, line.encode()
                )  # print may have been interrupted, and cannot be entered twice

    def after_step(self, step: Step) -> None:
        """Tell the other ranks how this one's step went, and hear of theirs.

        Raises:
            UserError: a loss is not finite, on any of the ranks.
        """
        if distributed.launcher_is_gone():
            self._asked = self._asked or signal.SIGTERM
        self._steps.append(step)
        self._hear(self._vote.cast(self._flags(step.losses)))

    def settle(self) -> None:
        """Hear of all steps so far, before something is written that must be good."""
        self._hear(self._vote.settle())

    def _flags(self, losses: Mapping[str, Tensor | float]) -> Tensor:
        """(2,): the signal, and 1 if a loss is not finite; on the device of the losses."""
        tensors = [v.detach() for v in losses.values() if isinstance(v, Tensor)]
        numbers = [v for v in losses.values() if not isinstance(v, Tensor)]
        finite = [tensor.isfinite().all() for tensor in tensors] or [torch.tensor(True)]
        finite = [part.to(finite[0].device) for part in finite]
        bad = torch.stack(finite).all().logical_not().float()
        flags = torch.stack([torch.zeros_like(bad), bad])
        flags[0] += self._asked
        flags[1] += not all(map(math.isfinite, numbers))
        return flags

    def _hear(self, flags: list[float]) -> None:
        if not flags:
            return
        self.stop = max(self.stop, int(flags[0]))
        step = self._steps.popleft()
        if flags[1]:
            told = [text for text in distributed.gather_everywhere(_bad(step)) if text]
            raise UserError(
                f"{step.where}: {told[0]}. Training stopped; the checkpoints are from before that. "
                "Look at these images, or lower --lr and start anew; --continue_train goes on from "
                "the last checkpoint"
            )


def _bad(step: Step) -> str:
    """A phrase about the losses that are not finite and their batch; empty if all are."""
    values = {k: torch.as_tensor(v).detach() for k, v in step.losses.items()}
    bad = [f"loss {k} is {v.sum().item()}" for k, v in values.items() if not v.isfinite().all()]
    shown = ", ".join(map(str, step.paths[:4])) + (", …" if len(step.paths) > 4 else "")
    return f"{', '.join(bad)} in the batch of {shown}" if bad else ""
