"""What goes on around the training step: counting, timing, showing and saving."""

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from data.loader import Loader
from models.base_model import BaseModel
from util import checkpoint, device_memory, distributed
from util.reports.loss_log import LossLog
from util.reports.pages import TrainingPage
from util.reports.wandb_log import WandbLog
from util.run_record import save_options
from util.training.interrupts import Step, Watch
from util.training.prefetch import on_device
from util.training.saver import Counters, Saver
from util.util import tensor2im


def due(seen: int, step: int, every: int) -> bool:
    """Whether a counter that went up by `step` to `seen` has crossed a multiple of `every`."""
    return seen // every > (seen - step) // every


class Stopwatch:
    """Splits the time into waiting for data and all the rest."""

    def __init__(self) -> None:
        """Start."""
        self.waited = self.computed = 0.0
        self._last = time.perf_counter()

    def data_came(self) -> None:
        """Until now it was waiting."""
        self.waited += self._lap()

    def work_ended(self) -> None:
        """Until now it was working."""
        self.computed += self._lap()

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return lap

    @property
    def total(self) -> float:
        """Seconds in all."""
        return self.waited + self.computed

    @property
    def share_waiting(self) -> float:
        """The share of the time spent waiting for data, 0 to 1."""
        return self.waited / self.total if self.total else 0.0


class Progress:
    """The bookkeeping of a training run, so that the loop in train.py is only the loop.

    Counters count images over all ranks. Use it in a `with`; it closes its logs at the end.
    """

    def __init__(self, opt: argparse.Namespace, model: BaseModel, loader: Loader):
        """Open the logs, where the last run left them if it is continued."""
        self.opt, self.model, self.loader = opt, model, loader
        self.folder = checkpoint.folder(opt)
        self.last_epoch = opt.n_epochs + opt.n_epochs_decay
        self.epoch, self.epoch_iter, self.total_iters = opt.epoch_count, 0, 0
        self.printed = self.shown = False  # in this epoch
        self.advised = False
        self.saver, self.watch = Saver(opt, model), Watch()
        counters = self.saver.resume()
        if counters:
            self._go_on(counters)
        self.resume_at = self.total_iters if counters else None
        self.wandb = distributed.on_main(WandbLog, opt) if opt.use_wandb else None
        place = (self.epoch, self.epoch_iter, self.total_iters) if counters else None
        self.log = distributed.on_main(LossLog, self.folder, place)
        save_options(opt, self.folder, suffixes=[".txt"])
        self.page: TrainingPage | distributed.NoOp | None = None
        self.bar: tqdm | None = None
        self.run_clock, self.run_images = Stopwatch(), 0

    def __enter__(self) -> "Progress":
        """The progress itself; from here on a signal waits until a step is done."""
        self.watch.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the bar away and finish the logs."""
        self.watch.__exit__(*exception)
        if self.bar is not None:
            self.bar.close()
        if self.wandb:
            self.wandb.close()

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, from 1."""
        for epoch in range(self.epoch, self.last_epoch + 1):
            if epoch != self.epoch:
                self.epoch, self.epoch_iter = epoch, 0
                self.printed = self.shown = False
            yield epoch

    def batches(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch; the time they take to come is noted."""
        self.loader.set_epoch(epoch, self.epoch_iter)
        self.images_before = self.epoch_iter
        self.learning_rate = [o.param_groups[0]["lr"] for o in self.model.optimizers[:1]]
        self.epoch_clock, self.print_clock, self.print_images = Stopwatch(), Stopwatch(), 0
        self.run_clock.work_ended()
        self.bar = self._new_bar()
        for batch in on_device(self.loader, self.opt.device):
            for clock in self._clocks():
                clock.data_came()
            yield batch

    def advance(self) -> None:
        """A step is done: count it, and print, show and save what is due."""
        images = min(self.opt.global_batch_size, len(self.loader) - self.epoch_iter)
        if not self.run_images:  # not before: now an earlier run is replaced
            self.saver.replace_earlier_run()
            self.page = None if self.opt.no_html else self._open_page()
        self.model.end_step()
        self._count(images)
        self.watch.after_step(self._step())
        finished = self.epoch_iter >= len(self.loader)
        if due(self.total_iters, images, self.opt.print_freq) or (finished and not self.printed):
            self._print_losses()
        shown_every = min(self.opt.display_freq, self.opt.update_html_freq)
        if due(self.total_iters, images, shown_every) or (finished and not self.shown):
            self._show()
        saving = due(self.total_iters, images, self.opt.save_latest_freq)
        if saving:
            self._save([f"iter_{self.total_iters}"] * self.opt.save_by_iter + ["latest"])
        for clock in self._clocks():
            clock.work_ended()
        if self.watch.stop:
            self._leave(saved=saving)

    def end_epoch(self) -> None:
        """Print, show and save what is due at the end of an epoch, and say how long it took."""
        distributed.check_ddp_consistency(self.model.named_networks())
        if self.epoch == self.last_epoch or self.epoch % self.opt.save_epoch_freq == 0:
            self._save([str(self.epoch), "latest"], epoch_ended=True)
        self.bar.close()
        for clock in self._clocks():
            clock.work_ended()
        clock, images = self.epoch_clock, self.epoch_iter - self.images_before
        rate = "".join(f"; learning rate {rate:.2g}" for rate in self.learning_rate)
        distributed.print0(
            f"epoch {self.epoch}/{self.last_epoch}: {timedelta(seconds=round(clock.total))}, "
            f"{images / max(clock.total, 1e-9):.2f} images/s, {clock.share_waiting:.0%} "
            f"of it waiting for data{rate}; time left {self._time_left()}"
        )
        if not self.advised and images:
            self._advise(clock.share_waiting)

    def _advise(self, share_waiting: float) -> None:
        """After the first epoch: the memory it takes, and what to do if it waits for data."""
        self.advised = True
        distributed.print0(device_memory.peak(self.opt.device))
        remedy = self.loader.waiting_advice(share_waiting)
        if remedy:
            distributed.print0(remedy)

    def _go_on(self, counters: Counters) -> None:
        """Count from where a saved state was."""
        self.epoch, self.epoch_iter = counters["epoch"], counters["position"]
        self.total_iters = counters["total_iters"]
        self.printed, self.shown = counters.get("printed") is True, counters.get("shown") is True
        if counters["images"] != len(self.loader):
            distributed.print0(
                f"the dataset has {len(self.loader)} images now and had {counters['images']}: "
                "the order of this epoch is another one"
            )

    def _counters(self, epoch_ended: bool) -> Counters:
        return {
            "epoch": self.epoch + epoch_ended,
            "position": 0 if epoch_ended else self.epoch_iter,
            "total_iters": self.total_iters,
            "images": len(self.loader),
            "printed": self.printed and not epoch_ended,
            "shown": self.shown and not epoch_ended,
        }

    def _step(self) -> Step:
        where = f"epoch {self.epoch}, image {self.epoch_iter} of {len(self.loader)}"
        return Step(where, self.model.losses_so_far(), self.model.get_image_paths())

    def _leave(self, saved: bool) -> None:
        """Save and end the program, as a signal has asked."""
        if not saved:
            self._save(["latest"])
        distributed.barrier()  # torchrun ends the others as soon as one has left
        distributed.print0(
            f"stopped by {signal.Signals(self.watch.stop).name} and saved, after "
            f"{self.total_iters} images; to go on: {self.saver.command_to_continue()}"
        )
        raise SystemExit(128 + self.watch.stop)

    def _clocks(self) -> tuple[Stopwatch, Stopwatch, Stopwatch]:
        return self.run_clock, self.epoch_clock, self.print_clock

    def _count(self, images: int) -> None:
        self.total_iters += images
        self.epoch_iter += images
        self.run_images += images
        self.print_images += images
        self.bar.update(images)

    def _print_losses(self) -> None:
        self.printed = True
        losses = self.model.get_current_losses()  # waits for the device: that is computing, too
        for clock in self._clocks():
            clock.work_ended()
        clock, images = self.print_clock, max(self.print_images, 1)
        times = clock.computed / images, clock.waited / images
        distributed.print0(
            self.log.add(self.epoch, self.epoch_iter, self.total_iters, *times, losses)
        )
        if self.page:
            self.page.add_losses(self.epoch, self.total_iters, losses)
        if self.wandb:
            self.wandb.add_losses(self.total_iters, losses)
        self.bar.set_postfix_str(f"{self._time_left()} left, {clock.share_waiting:.0%} waiting")
        self.print_clock, self.print_images = Stopwatch(), 0

    def _show(self) -> None:
        self.shown = True
        with torch.no_grad():
            self.model.compute_visuals()  # on all ranks: it may run networks that synchronise
        if not (self.page or self.wandb):
            return
        images = {k: tensor2im(v) for k, v in self.model.get_current_visuals().items()}
        if self.page:
            paths = [str(path) for path in self.model.get_image_paths()[:1]]
            self.page.add_visuals(self.epoch, self.total_iters, images, captions=paths)
        if self.wandb:
            self.wandb.add_visuals(self.total_iters, images)

    def _save(self, tags: list[str], epoch_ended: bool = False) -> None:
        self.watch.settle()
        self.log.flush()
        self.saver.save(tags, self._counters(epoch_ended))

    def _open_page(self) -> TrainingPage | distributed.NoOp:
        return distributed.on_main(
            TrainingPage,
            Path(self.folder) / "web",
            title=self.opt.name,
            options=vars(self.opt),
            image_size=self.opt.display_winsize,
            resume_at=self.resume_at,
        )

    def _new_bar(self) -> tqdm:
        return tqdm(
            total=len(self.loader),
            desc=f"epoch {self.epoch}/{self.last_epoch}",
            unit="image",
            initial=self.epoch_iter,
            disable=not (distributed.is_main() and sys.stderr.isatty()),
            leave=False,
            dynamic_ncols=True,
        )

    def _time_left(self) -> timedelta:
        images = (self.last_epoch - self.epoch + 1) * len(self.loader) - self.epoch_iter
        return timedelta(seconds=round(images * self.run_clock.total / max(self.run_images, 1)))
