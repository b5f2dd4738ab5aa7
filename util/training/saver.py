"""Saving during a run, and continuing from what was saved."""

import argparse
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

Counters = dict[str, int]  # the place in a run, and what was printed and shown in its epoch


class Saver:
    """Writes checkpoints of a model, and takes it to where the last one was made.

    Args:
        opt: reads name, checkpoints_dir, device, verbose, keep_last and where to continue.
        model: after its setup, before any training.
    """

    def __init__(self, opt: argparse.Namespace, model: Model):
        """Tell constants of the model from what training will change."""
        self.opt, self.model = opt, model
        self.folder = checkpoint.folder(opt)
        self.numbers = train_state.numbers(model)
        checkpoint.remove_unfinished(self.folder)

    def resume(self) -> Counters | None:
        """Put the model, the pools and the random numbers back to a saved state, if one is to be.

        Returns:
            The counters that were saved with it; None at the start of a run.
        """
        if self.opt.saved_run is None:
            if self.opt.continue_train:
                distributed.print0(
                    f"{self.folder} has no training state, as in checkpoints of the original: the "
                    "weights were loaded; the optimizers' moments, image pools and random numbers "
                    f"start afresh, in epoch {self.opt.epoch_count} (--epoch_count)"
                )
            elif checkpoint.state_path(self.folder, "latest").exists():
                distributed.print0(
                    f"{self.folder} holds an earlier run, which --continue_train would continue; "
                    "this one takes its place, and keeps its last checkpoint as 'previous'"
                )
            return None
        path = checkpoint.state_path(self.folder, self.opt.saved_run.tag)
        state, self.opt.saved_run.state = self.opt.saved_run.state, None  # closed after this
        told = state and (state["progress"], len(state["ranks"]), state.get("torch"))
        counters, ranks, saved_by = distributed.broadcast(told)
        if saved_by != str(torch.__version__):
            distributed.print0(
                f"the state was saved with torch {saved_by}, and this is {torch.__version__}: the "
                "run continues, but not bit for bit as it would have there"
            )
        try:
            train_state.restore(self.model, state)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        self._say_where(path, counters, ranks)
        return counters

    def _say_where(self, path: Path, counters: Counters, ranks: int) -> None:
        distributed.print0(
            f"continuing from {path}: epoch {counters['epoch']}, image {counters['position']} of "
            f"{counters['images']}, {counters['total_iters']} images in all"
        )
        batch, before = self.opt.global_batch_size, f"{ranks} rank" + "s" * (ranks > 1)
        if ranks != distributed.world_size():
            distributed.print0(
                f"so far on {before}, now on {distributed.world_size()}, {batch} images in a batch "
                "of all; the image pools are dealt anew"
            )

    def replace_earlier_run(self) -> None:
        """A new run under the name of an earlier one: keep that one's last checkpoint."""
        if not self.opt.continue_train:
            checkpoint.set_aside(self.folder)

    def save(self, tags: list[str], counters: Counters) -> None:
        """Write the same checkpoint under each of the tags; call it on every rank.

        Raises:
            UserError: weights are not finite, or the files cannot be written; what was saved before
                is still there.
        """
        start = time.perf_counter()
        train_state.check_finite(self.model)
        state = train_state.collect(self.model, self.numbers, self.opt.device)
        if state:  # first: it needs no other file, and is the one for which a disk is too small
            more = {
                "progress": counters,
                "options": plain_options(vars(self.opt)),
                "job": restarts.job(),
            }
            checkpoint.save_train_state(self.folder, tags[0], state | more)
        self.model.save_networks(tags[0])
        for tag in tags[1:]:
            checkpoint.copy_checkpoint(self.folder, tags[0], tag)
        save_options(self.opt, self.folder)  # with the weights they belong to, not before
        distributed.note_saved()
        if self.opt.keep_last:
            checkpoint.prune(self.folder, tags[0], self.opt.keep_last)
        if self.opt.verbose:
            size, seconds = checkpoint.size(self.folder, tags[0]), time.perf_counter() - start
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
