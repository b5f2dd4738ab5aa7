"""What surrounds the training step: counting, timing, printing, showing and saving."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from copy import copy
from datetime import timedelta
from typing import Any

import torch
from tqdm import tqdm

from util import checkpoint, distributed
from util.background import Background
from util.devices import HostCopy, on_device, peak_memory
from util.errors import one_line
from util.reports.loss_log import LossLog
from util.reports.training_page import TrainingPage
from util.reports.wandb_log import WandbLog
from util.run_record import save_options
from util.training.interrupts import StepMonitor, StopWaiting
from util.training.protocols import Loader, Model
from util.training.saver import Counters, Saver
from util.util import to_uint8

END = object()  # stands for a batch after the last one
BAR: dict[str, Any] = {"unit": "image", "leave": False, "dynamic_ncols": True}


def due(seen: int, step: int, every: int) -> bool:
    """Whether a counter that went up by `step` to `seen` has crossed a multiple of `every`."""
    return seen // every > (seen - step) // every


class Stopwatch:
    """Seconds in total, those of them spent waiting for data, and the images of that time."""

    def __init__(self, total: float = 0.0, waited: float = 0.0, images: int = 0):
        self.total, self.waited, self.images = total, waited, images
        self._last = time.perf_counter()

    def add_time(self, waiting: bool) -> None:
        """Add the time since the last call; all of it was spent waiting for data, or none."""
        last, self._last = self._last, time.perf_counter()
        self.total += self._last - last
        self.waited += waiting * (self._last - last)

    def since(self, start: "Stopwatch") -> "Stopwatch":
        """What came after `start`, a copy of an earlier state."""
        total, waited = self.total - start.total, self.waited - start.waited
        return Stopwatch(total, waited, self.images - start.images)

    @property
    def share_waiting(self) -> float:
        """The share of the time spent waiting for data, 0 to 1."""
        return self.waited / self.total if self.total else 0.0


class Progress(ExitStack):
    """The bookkeeping of a training run, so that the loop in train.py is only the loop.

    Counters count images over all ranks. Use it in a `with`: signals then wait until a step is
    done, and the logs are closed at the end.
    """

    def __init__(self, opt: argparse.Namespace, model: Model, loader: Loader):
        super().__init__()
        self.opt, self.model, self.loader = opt, model, loader
        self.folder = checkpoint.folder(opt)
        self.last_epoch = opt.n_epochs + opt.n_epochs_decay
        self.epoch, self.epoch_iter, self.total_iters = opt.epoch_count, 0, 0
        self.saver, self.monitor, self.clock = Saver(opt, model), StepMonitor(), Stopwatch()
        self.resume_at = self._restore(self.saver.resume())
        wandb = distributed.main_only(WandbLog)
        self.wandb = wandb(opt, self.saver.run) if opt.use_wandb else distributed.NoOp()
        self.log = distributed.main_only(LossLog)(self.folder, self.resume_at, self.saver.run)
        self.page: TrainingPage | distributed.NoOp = distributed.NoOp()  # until the first step
        self._not_shown: set[str] = set()  # visuals that are no images
        self.bar = tqdm(disable=True)
        save_options(opt, self.folder, suffixes=[".txt"])

    def __enter__(self) -> "Progress":
        self.callback(self.wandb.close)
        self.page_thread = self.enter_context(Background())
        self.callback(lambda: self.bar.close())  # that of the last epoch
        self.enter_context(self.monitor)
        return self

    def _restore(self, counters: Counters | None) -> tuple[int, int, int] | None:
        """Count on from there; returns the place as the logs name it, None for a new run."""
        if not counters:
            return None
        images, now = counters["images"], len(self.loader)
        if images != now:
            distributed.print0(
                f"the dataset has {now} images now and had {images}: this epoch's order is another"
            )
        place = counters["epoch"], counters["position"], counters["total_iters"]
        self.epoch, self.epoch_iter, self.total_iters = place
        return place

    def epochs(self) -> range:
        """The epochs that are left, from 1."""
        return range(self.epoch, self.last_epoch + 1)

    def batches(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch; the time they take to come is noted."""
        self.loader.set_epoch(epoch, self.epoch_iter)
        self.learning_rate = [o.param_groups[0]["lr"] for o in self.model.optimizers[:1]]
        self.clock.add_time(waiting=False)
        self.epoch_start = self.print_start = copy(self.clock)
        hidden = not (distributed.is_main() and sys.stderr.isatty())
        self.bar = tqdm(total=len(self.loader), initial=self.epoch_iter, disable=hidden, **BAR)
        self.bar.set_description(f"epoch {epoch}/{self.last_epoch}")
        self._batches = iter(on_device(self.loader, self.opt.device))
        self._fetch_next()
        self._leave_if_asked(saved=not self.clock.images)
        while self._next is not END:
            yield self._next

    def _fetch_next(self) -> None:
        """Wait for the next batch; all ranks hear whether one has none to come, or a signal."""
        self.clock.add_time(waiting=False)
        self._next, self._trouble = END, None
        try:
            with self.monitor.waiting():
                self._next = next(self._batches, END)
        except StopWaiting:
            pass
        except Exception as error:
            self._trouble = error
        self.clock.add_time(waiting=True)
        self._troubled = self.monitor.agree(self._trouble is not None)

    def _leave_if_asked(self, saved: bool) -> None:
        """End the run, its state saved, if a rank has got a signal, or no batch."""
        if not (self.monitor.stop or self._troubled):
            return
        if not saved:
            self._save(["latest"])
        place = f"after {self.total_iters} images; to continue: {self.saver.command_to_continue()}"
        done = f"and saved, {place}" if self.clock.images else "before the first step"
        if self.monitor.stop:
            self.monitor.leave(done)
        if self.clock.images:
            distributed.print0(f"saved {place}")
        if self._trouble:
            raise self._trouble
        distributed.barrier()  # that other rank will say what it is

    def advance(self) -> None:
        """A step is done: count it, and print, show and save what is due."""
        opt = self.opt
        if not self.clock.images:
            self._replace_earlier_run()
        self.model.end_step()
        images = self._count()
        if self._report_due(images, opt.print_freq):
            self._print_losses()
        if self._report_due(images, min(opt.display_freq, opt.update_html_freq)):
            self._show()
        self._fetch_next()
        saving = due(self.total_iters, images, opt.save_latest_freq)
        if saving:
            self._save([f"iter_{self.total_iters}"] * opt.save_by_iter + ["latest"])
        self.clock.add_time(waiting=False)
        self._leave_if_asked(saved=saving)

    def end_epoch(self) -> None:
        """Save what is due at the end of an epoch, and print how long it took."""
        distributed.check_ddp_consistency(self.model.named_networks())
        epoch, self.epoch, self.epoch_iter = self.epoch, self.epoch + 1, 0
        if epoch == self.last_epoch or epoch % self.opt.save_epoch_freq == 0:
            self._save([str(epoch), "latest"])
        self.bar.close()
        self.clock.add_time(waiting=False)
        spent = self.clock.since(self.epoch_start)
        rate = "".join(f"; learning rate {rate:.2g}" for rate in self.learning_rate)
        distributed.print0(
            f"epoch {epoch}/{self.last_epoch}: {timedelta(seconds=round(spent.total))}, "
            f"{spent.images / max(spent.total, 1e-9):.2f} images/s, {spent.share_waiting:.0%} "
            f"of it waiting for data{rate}; time left {self._time_left()}"
        )
        first = spent.images and spent.images == self.clock.images  # epoch of this start
        if first and distributed.is_main():
            advice = self.loader.waiting_advice(spent.share_waiting)
            for line in filter(None, (peak_memory(self.opt.device), advice)):
                distributed.print0(line)

    def _replace_earlier_run(self) -> None:
        """After the first step, so that a start that fails leaves the earlier run alone."""
        if self.saver.aside:
            checkpoint.set_aside(self.folder, self.saver.aside)
        if not self.opt.no_html:
            seen = self.resume_at and self.resume_at[2]
            shell = self.folder / "web", self.opt.name, vars(self.opt), seen, self.saver.run
            self.page = distributed.main_only(TrainingPage)(*shell)

    def _count(self) -> int:
        """Count the images of a step, and hear how it went on all ranks; returns their number."""
        images = min(self.opt.global_batch_size, len(self.loader) - self.epoch_iter)
        self.total_iters += images
        self.epoch_iter += images
        self.clock.images += images
        self.bar.update(images)
        where = f"epoch {self.epoch}, image {self.epoch_iter} of {len(self.loader)}"
        self.monitor.after_step(where, self.model.losses_so_far(), self.model.get_image_paths())
        return images

    def _report_due(self, images: int, every: int) -> bool:
        """Whether this step crossed a multiple, or no step of an epoch that is over did."""
        over = self.epoch_iter >= len(self.loader)
        first = over and not due(self.total_iters, self.epoch_iter, every)
        return first or due(self.total_iters, images, every)

    def _print_losses(self) -> None:
        losses = self.model.get_current_losses()  # waits for the device: that is computing, too
        self.clock.add_time(waiting=False)
        spent, self.print_start = self.clock.since(self.print_start), copy(self.clock)
        times = (spent.total - spent.waited) / spent.images, spent.waited / spent.images
        if self.log:
            place = self.epoch, self.epoch_iter, self.total_iters
            distributed.print0(self.log.add(*place, *times, losses))
        self.page_thread.add(self.page.add_losses, self.epoch, self.total_iters, losses)
        self.wandb.add(self.total_iters, losses)
        self.bar.set_postfix_str(f"{self._time_left()} left, {spent.share_waiting:.0%} waiting")

    def _show(self) -> None:
        with torch.no_grad():
            self.model.compute_visuals()  # on all ranks: it may run networks that synchronise
        if self.page or self.wandb:
            visuals = self.model.get_current_visuals()
            images = {name: self._to_show(name, visual) for name, visual in visuals.items()}
            copies = {name: HostCopy(image) for name, image in images.items() if image is not None}
            paths = [str(path) for path in self.model.get_image_paths()[:1]]
            self.page_thread.add(self._show_copies, self.epoch, self.total_iters, copies, paths)

    def _to_show(self, name: str, visual: Any) -> torch.Tensor | None:
        """The first image of a visual for people to look at; None for what is no image."""
        try:
            shown = to_uint8(visual, self.opt.show_bands, self.loader.shown(name))[0]
            if shown.dim() != 3 or shown.shape[2] != 3 or not shown.numel():
                raise ValueError(f"its shape is {list(visual.shape)}")
            return shown
        except Exception as error:  # of any kind: what is only shown must not end a run
            if name not in self._not_shown:
                distributed.print0(f"{name} is not shown, it is no image ({one_line(error)})")
            self._not_shown.add(name)
            return None

    def _show_copies(
        self, epoch: int, total_iters: int, copies: dict[str, HostCopy], paths: list[str]
    ) -> None:
        images = {name: copy.numpy() for name, copy in copies.items()}
        self.page.add_visuals(epoch, total_iters, images, captions=paths)
        self.wandb.add(total_iters, images)

    def _save(self, tags: list[str]) -> None:
        self.monitor.settle()
        self.page_thread.settle()
        self.log.flush()
        place = {"epoch": self.epoch, "position": self.epoch_iter, "total_iters": self.total_iters}
        self.saver.save(tags, {**place, "images": len(self.loader)})
        self.loader.save_kinds(self.folder)

    def _time_left(self) -> timedelta:
        images = (self.last_epoch - self.epoch + 1) * len(self.loader) - self.epoch_iter
        return timedelta(seconds=round(images * self.clock.total / max(self.clock.images, 1)))
