"""What surrounds the training step: counting, timing, printing, showing and saving."""

import argparse
import signal
import sys
from collections.abc import Iterator
from copy import copy
from datetime import timedelta
from typing import Any

import torch
from tqdm import tqdm

from util import checkpoint, device_memory, distributed
from util.reports.loss_log import LossLog
from util.reports.training_page import TrainingPage
from util.reports.wandb_log import WandbLog
from util.run_record import save_options
from util.training.interrupts import StepMonitor
from util.training.prefetch import on_device
from util.training.protocols import Loader, Model
from util.training.saver import Counters, Saver
from util.training.stopwatch import Stopwatch
from util.util import tensor2im


def due(seen: int, step: int, every: int) -> bool:
    """Whether a counter that went up by `step` to `seen` has crossed a multiple of `every`."""
    return seen // every > (seen - step) // every


class Progress:
    """The bookkeeping of a training run, so that the loop in train.py is only the loop.

    Counters count images over all ranks. Use it in a `with`; it closes its logs at the end.
    """

    def __init__(self, opt: argparse.Namespace, model: Model, loader: Loader):
        """Open the logs, where the last run left them if it is continued."""
        self.opt, self.model, self.loader = opt, model, loader
        self.folder = checkpoint.folder(opt)
        self.last_epoch = opt.n_epochs + opt.n_epochs_decay
        self.epoch, self.epoch_iter, self.total_iters = opt.epoch_count, 0, 0
        self.printed = self.shown = False  # in this epoch
        self.saver, self.monitor = Saver(opt, model), StepMonitor()
        counters = self.saver.resume()
        if counters:
            self._restore(counters)
        self.resume_at = (self.epoch, self.epoch_iter, self.total_iters) if counters else None
        nothing = distributed.NoOp()
        self.wandb = distributed.on_main(WandbLog, opt) if opt.use_wandb else nothing
        self.log = distributed.on_main(LossLog, self.folder, self.resume_at)
        save_options(opt, self.folder, suffixes=[".txt"])
        self.page: TrainingPage | distributed.NoOp = nothing  # until the first step is done
        self.bar = tqdm(disable=True)
        self.clock = Stopwatch()

    def _restore(self, counters: Counters) -> None:
        """Count from where the saved state was."""
        self.epoch, self.epoch_iter = counters["epoch"], counters["position"]
        self.total_iters = counters["total_iters"]
        self.printed, self.shown = counters.get("printed") is True, counters.get("shown") is True
        if counters["images"] != len(self.loader):
            distributed.print0(
                f"the dataset has {len(self.loader)} images now and had {counters['images']}: "
                "the order of this epoch is another one"
            )

    def __enter__(self) -> "Progress":
        """The progress itself; from here on a signal waits until a step is done."""
        self.monitor.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the bar away and finish the logs."""
        self.monitor.__exit__(*exception)
        self.bar.close()
        self.wandb.close()

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, from 1."""
        yield from range(self.epoch, self.last_epoch + 1)

    def batches(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch; the time they take to come is noted."""
        self.loader.set_epoch(epoch, self.epoch_iter)
        self.learning_rate = [o.param_groups[0]["lr"] for o in self.model.optimizers[:1]]
        self.clock.add_time(waiting=False)
        self.epoch_start = self.print_start = copy(self.clock)
        self.bar = tqdm(
            total=len(self.loader),
            desc=f"epoch {epoch}/{self.last_epoch}",
            unit="image",
            initial=self.epoch_iter,
            disable=not (distributed.is_main() and sys.stderr.isatty()),
            leave=False,
            dynamic_ncols=True,
        )
        for batch in on_device(self.loader, self.opt.device):
            self.clock.add_time(waiting=True)
            yield batch

    def advance(self) -> None:
        """A step is done: count it, and print, show and save what is due."""
        opt, left = self.opt, len(self.loader) - self.epoch_iter
        images = min(opt.global_batch_size, left)
        if not self.clock.images:  # not before: only now an earlier run is replaced
            self.saver.replace_earlier_run()
            self._open_page()
        self.model.end_step()
        self._count(images)
        finished = self.epoch_iter >= len(self.loader)
        if due(self.total_iters, images, opt.print_freq) or (finished and not self.printed):
            self._print_losses()
        shown_every = min(opt.display_freq, opt.update_html_freq)
        if due(self.total_iters, images, shown_every) or (finished and not self.shown):
            self._show()
        saving = due(self.total_iters, images, opt.save_latest_freq)
        if saving:
            self._save([f"iter_{self.total_iters}"] * opt.save_by_iter + ["latest"])
        self.clock.add_time(waiting=False)
        if self.monitor.stop:
            self._leave(saved=saving)

    def end_epoch(self) -> None:
        """Save what is due at the end of an epoch, and print how long it took."""
        distributed.check_ddp_consistency(self.model.named_networks())
        epoch, self.epoch, self.epoch_iter = self.epoch, self.epoch + 1, 0
        self.printed = self.shown = False
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
        if spent.images and spent.images == self.clock.images:  # the first epoch of this start
            self._print_advice(spent.share_waiting)

    @distributed.main_only
    def _print_advice(self, share_waiting: float) -> None:
        """After the first epoch: the memory it took, and what to do if it waited for data."""
        distributed.print0(device_memory.peak(self.opt.device))
        advice = self.loader.waiting_advice(share_waiting)
        if advice:
            distributed.print0(advice)

    def _leave(self, saved: bool) -> None:
        """Save and end the program, as a signal has asked."""
        if not saved:
            self._save(["latest"])
        distributed.barrier()  # torchrun ends the others as soon as one has left
        distributed.print0(
            f"stopped by {signal.Signals(self.monitor.stop).name} and saved, after "
            f"{self.total_iters} images; to continue: {self.saver.command_to_continue()}"
        )
        raise SystemExit(128 + self.monitor.stop)

    def _count(self, images: int) -> None:
        self.total_iters += images
        self.epoch_iter += images
        self.clock.images += images
        self.bar.update(images)
        where = f"epoch {self.epoch}, image {self.epoch_iter} of {len(self.loader)}"
        self.monitor.after_step(where, self.model.losses_so_far(), self.model.get_image_paths())

    def _print_losses(self) -> None:
        self.printed = True
        losses = self.model.get_current_losses()  # waits for the device: that is computing, too
        self.clock.add_time(waiting=False)
        spent, self.print_start = self.clock.since(self.print_start), copy(self.clock)
        times = spent.computed / spent.images, spent.waited / spent.images
        if self.log:
            place = self.epoch, self.epoch_iter, self.total_iters
            distributed.print0(self.log.add(*place, *times, losses))
        self.page.add_losses(self.epoch, self.total_iters, losses)
        self.wandb.add_losses(self.total_iters, losses)
        self.bar.set_postfix_str(f"{self._time_left()} left, {spent.share_waiting:.0%} waiting")

    def _show(self) -> None:
        self.shown = True
        with torch.no_grad():
            self.model.compute_visuals()  # on all ranks: it may run networks that synchronise
        if self.page or self.wandb:
            images = {k: tensor2im(v) for k, v in self.model.get_current_visuals().items()}
            paths = [str(path) for path in self.model.get_image_paths()[:1]]
            self.page.add_visuals(self.epoch, self.total_iters, images, captions=paths)
            self.wandb.add_visuals(self.total_iters, images)

    def _save(self, tags: list[str]) -> None:
        self.monitor.settle()
        self.log.flush()
        counters = {
            "epoch": self.epoch,
            "position": self.epoch_iter,
            "total_iters": self.total_iters,
            "images": len(self.loader),
            "printed": self.printed,
            "shown": self.shown,
        }
        self.saver.save(tags, counters)

    def _open_page(self) -> None:
        if not self.opt.no_html:
            shell = self.opt.name, vars(self.opt), self.opt.display_winsize
            seen = self.resume_at and self.resume_at[2]
            web = self.folder / "web"
            self.page = distributed.on_main(TrainingPage, web, *shell, resume_at=seen)

    def _time_left(self) -> timedelta:
        images = (self.last_epoch - self.epoch + 1) * len(self.loader) - self.epoch_iter
        rate = self.clock.total / max(self.clock.images, 1)
        return timedelta(seconds=round(images * rate))
