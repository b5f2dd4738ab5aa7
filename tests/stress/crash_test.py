"""Kill training at moments drawn from a seed, continue it each time, and compare the result.

    pytest tests/stress/crash_test.py  # 2 kills each, of two cases
    python tests/stress/crash_test.py  # 20 kills each, about 20 minutes
    python tests/stress/crash_test.py --kills 3 --cases pix2pix --ranks 2

Each case is trained once from end to end, and once with `kill -9` of the whole job (the launcher,
all ranks, all loader workers at once), again and again, each time continued with --continue_train.
A kill comes some steps after a start: at a random time after the last of them, or, for every other
one, inside a save, when a half-written file lies in the folder. In the end the weights, the whole
training state (optimizers, schedules, pools, random states, counters) and the logged losses must be
byte for byte those of the run that nobody killed. Exit status 1 if not.

The networks and images are tiny: it is about the moments, not the numbers.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import pytest  # noqa: E402
import torch  # noqa: E402
from conftest import write_images  # noqa: E402
from jobs import IN_PROC, stat  # noqa: E402
from same import assert_same_run  # noqa: E402

CASES = {
    "pix2pix": ["--model", "pix2pix", "--norm", "syncbatch"],  # dropout is on
    "cycle_gan": ["--model", "cycle_gan", "--pool_size", "50", "--lambda_identity", "0.5"],
}
RUN = ["--gpu_ids", "-1", "--load_size", "36", "--crop_size", "32", "--ngf", "8", "--ndf", "8"]
RUN += ["--netG", "resnet_6blocks", "--num_threads", "2", "--print_freq", "2", "--no_html"]
RUN += ["--save_latest_freq", "4", "--save_epoch_freq", "2", "--n_epochs", "8"]
RUN += ["--n_epochs_decay", "7"]
IMAGES = 16  # an epoch; 15 epochs are 120 steps of 2
PATIENCE = 180  # seconds


def main() -> None:
    """Run the cases that the command line names; print a line for each kill, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--kills", type=int, default=20, help="for each case and number of ranks")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        results = [
            crash(case, ranks, args.kills, random.Random(f"{args.seed} {case} {ranks}"))
            for case in args.cases
            for ranks in args.ranks
        ]
        os.chdir(ROOT)
    print("\n| case | ranks | kills | inside a save | the same in the end |\n|---|---|---|---|---|")
    for result in results:
        print("| " + " | ".join(map(str, result)) + " |")
    sys.exit(any(result[-1] != "yes" for result in results))


@IN_PROC
@pytest.mark.parametrize(("case", "ranks"), [("pix2pix", 1), ("cycle_gan", 3)])
def test_a_killed_and_continued_run_is_the_run_that_nobody_killed(case, ranks, here, monkeypatch):
    short = [*RUN, "--n_epochs", "4", "--n_epochs_decay", "2"]
    monkeypatch.setattr(sys.modules[__name__], "RUN", short)
    row = crash(case, ranks, 2, random.Random(f"5 {case} {ranks}"))
    assert row[2:] == (2, row[3], "yes") and row[3] > 0  # a kill at least was inside a save


def crash(case: str, ranks: int, kills: int, dice: random.Random) -> tuple:
    """One case: the row of the table."""
    write_images(Path("data/train"), IMAGES, width=72, height=36)
    write_images(Path("data/trainA"), IMAGES, 36, 36)
    write_images(Path("data/trainB"), 11, 36, 36)
    whole, broken = (f"{case}_{ranks}_{kind}" for kind in ("whole", "broken"))
    command(case, ranks, whole).wait(PATIENCE)
    inside = 0
    for number in range(1, kills + 1):
        seen, unfinished = kill_one(case, ranks, broken, dice, in_save=number % 2 == 0)
        inside += unfinished
        where = "inside a save" if unfinished else "between saves"
        print(f"{case}, {ranks} ranks, kill {number}: {where}, at {seen} images", flush=True)
    job = command(case, ranks, broken)
    if job.wait(PATIENCE):
        return case, ranks, kills, inside, "no: it did not end well"
    try:
        assert_same_run(f"checkpoints/{whole}", f"checkpoints/{broken}")
    except AssertionError as error:
        return case, ranks, kills, inside, f"no: {error}"
    return case, ranks, kills, inside, "yes"


def command(case: str, ranks: int, name: str) -> subprocess.Popen:
    """Start training, or continue it where a state was saved."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    start = [sys.executable, *(launch if ranks > 1 else []), str(ROOT / "train.py")]
    resumed = ["--continue_train"] * Path("checkpoints", name, "latest_train_state.pth").exists()
    batch = ["--global_batch_size", str(max(2, ranks))]
    argv = ["--dataroot", "data", "--name", name, *CASES[case], *RUN, *batch, *resumed]
    with open(f"{name}.txt", "a") as output:
        return subprocess.Popen([*start, *argv], stdout=output, stderr=subprocess.STDOUT)


def kill_one(
    case: str, ranks: int, name: str, dice: random.Random, in_save: bool
) -> tuple[int, bool]:
    """Start or continue the run and kill it; the images it had seen, and whether it was saving."""
    before, steps, delay = rows(name), dice.randint(1, 4), dice.uniform(0, 0.2)
    job = command(case, ranks, name)
    deadline = time.monotonic() + PATIENCE
    while rows(name) == before and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    first = rows(name)  # after a resume the table is cut first
    while rows(name) < first + steps and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    if in_save:
        while not saving(name) and job.poll() is None and time.monotonic() < deadline:
            pass
    else:
        time.sleep(delay)
    if job.poll() is not None:
        raise SystemExit(
            f"{name} ended before it was killed:\n{Path(name + '.txt').read_text()[-2000:]}"
        )
    kill_all(job)
    latest = Path("checkpoints", name, "latest_train_state.pth")
    if latest.exists():
        torch.load(latest, weights_only=True)
    return images(name), saving(name)


def saving(name: str) -> bool:
    """Whether a half-written file lies in the folder."""
    try:
        return any(entry.name.endswith(".pth.tmp") for entry in os.scandir(f"checkpoints/{name}"))
    except FileNotFoundError:
        return False


def kill_all(job: subprocess.Popen) -> None:
    """SIGKILL for the job and all that it has started."""
    family = [job.pid]
    for pid in family:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            family += map(int, task.read_text().split())
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    job.wait()
    while any(running(pid) for pid in family):
        time.sleep(0.01)


def running(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    found = stat(pid)
    return found is not None and found[0] not in "ZX"


def table(name: str) -> list[list[str]]:
    """The rows of losses.csv."""
    try:
        text = Path("checkpoints", name, "losses.csv").read_text()
    except FileNotFoundError:
        return []
    return [line.split(",") for line in text.splitlines()[1:]]


def rows(name: str) -> int:
    """How many there are."""
    return len(table(name))


def images(name: str) -> int:
    """The images that the last whole row says were seen."""
    return max([int(row[2]) for row in table(name) if len(row) > 4], default=0)


if __name__ == "__main__":
    main()
