"""Saving during a run, and continuing from what was saved."""

import argparse
import re
import secrets
import shlex
import sys
import time
from pathlib import Path

import torch

from util import checkpoint, distributed, restarts
from util.checkpoint import train_state
from util.errors import UserError
from util.run_record import plain_options, save_options
from util.training.protocols import Model

Counters = dict[str, int]  # the place in a run


class Saver:
    """Writes checkpoints of a model, given before any training, and puts it to the last one."""

    def __init__(self, opt: argparse.Namespace, model: Model):
        self.opt, self.model = opt, model
        self.folder = checkpoint.folder(opt)
        self.run = secrets.token_hex(4)  # an id, in the state and the logs
        self.before = train_state.before_training(model)
        given = checkpoint.tag(opt) if opt.continue_train else ""
        start = opt.saved_run.tag if opt.saved_run else given
        # the new tag of a checkpoint `latest` from which this run does not start
        self.aside = {"latest": "", "previous": "replaced"}.get(start, "previous")

    def resume(self) -> Counters | None:
        """Put model and random numbers to the saved state; returns its counters, None without."""
        if self.aside and checkpoint.state_path(self.folder, "latest").exists():
            distributed.print0(
                f"{self.folder} has a checkpoint latest, which --continue_train alone would "
                f"continue; this run keeps it as '{self.aside}', unless that is further on"
            )
        run = self.opt.saved_run
        if run is None:
            self._print_start()
            return None
        path = checkpoint.state_path(self.folder, run.tag)
        state, run.state = run.state, None  # closed after this
        told = state and (state["progress"], len(state["ranks"]), state.get("torch"))
        counters, ranks, saved_by = distributed.broadcast(told)
        found = re.fullmatch("[0-9a-f]{8}", str(state.get("run"))) if state else None
        self.run = found[0] if found else self.run
        try:
            train_state.restore(self.model, state)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        place = "epoch {epoch}, image {position} of {images}, {total_iters} images in all"
        distributed.print0(f"continuing from {path}: {place.format(**counters)}")
        if saved_by != (now := str(torch.__version__)):
            distributed.print0(f"saved by torch {saved_by}, now {now}: not the same bit for bit")
        if ranks != distributed.world_size():
            distributed.print0(
                f"so far on {ranks} rank{'s' * (ranks > 1)}, now on {distributed.world_size()}, "
                f"{self.opt.global_batch_size} images in a batch of all; image pools are dealt anew"
            )
        return counters

    def _print_start(self) -> None:
        if self.opt.continue_train:
            distributed.print0(
                f"{self.folder} has no training state: optimizers, image pools and random numbers "
                f"start afresh, in epoch {self.opt.epoch_count} (--epoch_count)"
            )

    def save(self, tags: list[str], counters: Counters) -> None:
        """Write the same checkpoint under each of the tags; call it on every rank."""
        start, tag = time.perf_counter(), tags[0]
        train_state.check_finite(self.model)
        state = train_state.collect(self.model, self.before, self.opt.device)
        if state:  # first: it needs no other file, and is the one for which a disk is too small
            options = plain_options(vars(self.opt))
            state |= {"progress": counters, "options": options, "run": self.run}
            state["job"] = restarts.job()
            checkpoint.save_train_state(self.folder, tag, state)
        self.model.save_networks(tag)
        for other in tags[1:]:
            checkpoint.copy_checkpoint(self.folder, tag, other)
        save_options(self.opt, self.folder)  # with the weights they belong to, not before
        distributed.note_saved()
        if self.opt.keep_last:
            checkpoint.prune(self.folder, tag, self.opt.keep_last)
        if self.opt.verbose:
            size, seconds = checkpoint.size(self.folder, tag), time.perf_counter() - start
            names = " and ".join(tags)
            distributed.print0(f"saved {names}: {size / 1e6:.1f} MB in {seconds:.2f} s")

    def command_to_continue(self) -> str:
        """The command line that continues the run."""
        ranks, local = distributed.world_size(), distributed.local_world_size()
        nodes = [f"--nnodes={ranks // local}"] * (ranks > local)
        start = ["python"] if ranks == 1 else ["torchrun", *nodes, f"--nproc_per_node={local}"]
        command = [*start, sys.argv[0] or "train.py", "--name", self.opt.name]
        if self.opt.device.type == "cpu" and torch.cuda.is_available():
            command += ["--gpu_ids", "-1"]
        if Path(self.opt.checkpoints_dir) != Path("checkpoints"):
            command += ["--checkpoints_dir", self.opt.checkpoints_dir]
        return shlex.join([*command, "--continue_train"])
