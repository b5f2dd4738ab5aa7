"""Several ranks for tests: a group of processes that call functions, and programs by torchrun."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

ROOT = Path(__file__).parent.parent
TRAIN_RUNS = str(ROOT / "tests" / "train_runs.py")
PATIENCE = 60  # seconds for a function; a rank that waits for another in vain must not hang a test


def launcher(ranks):
    """The beginning of a command line that runs a program on several ranks of this machine."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*run, f"--nproc_per_node={ranks}"]


def torchrun(ranks, *command, timeout=120):
    """Run a program on several ranks; the finished process, its output as text."""
    command = [*launcher(ranks), *map(str, command)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def train_runs(ranks, *command_lines):
    """Runs of tests/train_runs.py, all in one job, which must end well; what it printed."""
    launch = launcher(ranks) if ranks > 1 else [sys.executable]
    command = [*launch, TRAIN_RUNS, *command_lines]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def ranks(count, folder):
    """Processes joined by gloo, for the length of a block.

    Yields a function: `call(function, *args)` calls `function(*args)` on all of them at once and
    returns what each returns, in the order of ranks. Function and values must be picklable.
    """
    context = multiprocessing.get_context("forkserver")  # fork: torch's threads do not survive it
    context.set_forkserver_preload(["torch", "torch.distributed"])
    pipes, processes = [], []
    for rank in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, rank, count, str(folder)), daemon=True
        )
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        yield lambda function, *args: _call(pipes, function, args)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _call(pipes, function, args):
    for pipe in pipes:
        pipe.send((function, args))
    answers = []
    for rank, pipe in enumerate(pipes):
        assert pipe.poll(PATIENCE), f"rank {rank} hangs in {function.__name__}"
        answers.append(pickle.loads(pipe.recv_bytes()))
    for rank, (good, result) in enumerate(answers):
        assert good, f"rank {rank}: {result}"
    return [result for _, result in answers]


def _serve(pipe, rank, count, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=count)
    while True:
        function, args = pipe.recv()
        try:
            answer = True, function(*args)
        except BaseException:  # pytest.fail's too
            answer = False, traceback.format_exc()
        pipe.send_bytes(pickle.dumps(answer))
