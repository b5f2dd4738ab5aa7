"""Two machines with two ranks each train the weights of four ranks on one.

A machine is a network namespace with a host name, a table of addresses and a disk of its own: of
the other one's folder it sees nothing. A veth pair is the cable between them.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
from conftest import TINY, write_images
from same import logged_losses
from torchrun import ROOT, TRAIN_RUNS, launcher

ADDRESSES = {"alpha": "10.79.0.1", "beta": "10.79.0.2"}
CABLE = "veth0"
ONE_RUN = ["--dataroot", "data", "--name", "run", *TINY, "--model", "pix2pix", "--no_dropout"]
ONE_RUN += ["--pool_size", "0", "--no_html", "--global_batch_size", "4", "--n_epochs", "1"]
ONE_RUN += ["--dist_timeout", "0.5"]
TWO_EPOCHS = ["--n_epochs_decay", "1", "--save_epoch_freq", "2"]
ONE_MORE = ["--n_epochs_decay", "2", "--continue_train"]
LIMIT = 90  # seconds for a job
# what a process of a machine goes through: its name, its addresses, not the other's disk
ENTER = 'hostname "$1"; mount --bind "$2" /etc/hosts; mount -t tmpfs none "$3"; shift 3; exec "$@"'


class Machine:
    def __init__(self, name, folder, other, hosts):
        self.name, self.folder, self.netns = name, folder, f"{name}_{os.getpid()}"
        self.enter = ["ip", "netns", "exec", self.netns, "unshare", "--uts", "--mount"]
        self.enter += ["sh", "-ec", ENTER, "sh", name, str(hosts), str(other)]

    def plug_in(self):
        call("ip", "-n", self.netns, "addr", "add", f"{ADDRESSES[self.name]}/24", "dev", CABLE)
        for interface in ("lo", CABLE):
            call("ip", "-n", self.netns, "link", "set", interface, "up")

    def plug_in_again(self):
        call("ip", "-n", self.netns, "link", "set", CABLE, "up")

    def remove(self):
        """End whatever runs in it and delete it; nothing, if it was never made."""
        pids = subprocess.run(["ip", "netns", "pids", self.netns], capture_output=True, text=True)
        for pid in pids.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", self.netns], capture_output=True)


def call(*command):
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)


def connect(first, second):
    for machine in (first, second):
        call("ip", "netns", "add", machine.netns)
    other_end = ["peer", "name", CABLE, "netns", second.netns]
    call("ip", "link", "add", CABLE, "netns", first.netns, "type", "veth", *other_end)
    for machine in (first, second):
        machine.plug_in()
        call(*machine.enter, "true")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The disks of the two machines and of the one that they are compared with."""
    root = tmp_path_factory.mktemp("machines")
    for name in (*ADDRESSES, "local"):
        write_images(root / name / "data" / "train", 8, width=64)
    return root


@pytest.fixture(scope="module")
def machines(folders):
    programs = ("ip", "unshare", "mount", "hostname")
    missing = [program for program in programs if not shutil.which(program)]
    if sys.platform != "linux" or os.geteuid() or missing:
        pytest.skip(f"network namespaces need Linux, root and {', '.join(missing or programs)}")
    hosts = folders / "hosts"
    lines = [f"{address} {name}" for name, address in ADDRESSES.items()]
    hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    alpha, beta = folders / "alpha", folders / "beta"
    pair = Machine("alpha", alpha, beta, hosts), Machine("beta", beta, alpha, hosts)
    try:
        connect(*pair)
        yield pair
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this system lets nobody make network namespaces: {error.stderr.strip()}")
    finally:
        for machine in pair:
            machine.remove()


def start(command, folder, **environment):
    return subprocess.Popen(
        [*map(str, command)],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=open(folder.parent / "printed.txt", "a"),
        stderr=subprocess.STDOUT,
    )


def finish(*jobs, folder):
    """What the jobs of a start in `folder` printed; all of them must succeed in time."""
    deadline, codes = time.monotonic() + LIMIT, []
    try:
        for job in jobs:
            codes.append(job.wait(max(0, deadline - time.monotonic())))
    except subprocess.TimeoutExpired:
        codes.append("too slow")
    finally:
        for job in jobs:
            end(job)
    log = folder.parent / "printed.txt"
    printed = log.read_text()
    log.unlink()
    assert codes == [0] * len(jobs), printed
    return printed


def end(job):
    """torchrun takes its ranks with it, unless it is killed at once."""
    job.terminate()
    try:
        job.wait(10)
    except subprocess.TimeoutExpired:
        job.kill()


def start_on_two(machines, argv):
    nodes = ["--nnodes=2", "--nproc_per_node=2", f"--master_addr={ADDRESSES['alpha']}"]
    nodes += ["--master_port=29500"]
    jobs = []
    for i, machine in enumerate(machines):
        torchrun = [sys.executable, "-m", "torch.distributed.run", *nodes, f"--node_rank={i}"]
        command = [*machine.enter, *torchrun, TRAIN_RUNS, command_line(argv)]
        jobs.append(start(command, machine.folder, GLOO_SOCKET_IFNAME=CABLE))
    return jobs


def command_line(argv):
    return " ".join([*ONE_RUN, *argv])


@pytest.fixture(scope="module")
def printed(machines, folders):
    """Two epochs and, continued, one more, on two machines and on one; what the two printed."""
    one = [*launcher(4), TRAIN_RUNS, *map(command_line, (TWO_EPOCHS, ONE_MORE))]
    finish(start(one, folders / "local"), folder=folders / "local")
    folder = machines[0].folder  # processes of their own continue
    return "".join(
        finish(*start_on_two(machines, a), folder=folder) for a in (TWO_EPOCHS, ONE_MORE)
    )


def weights(folder, tag):
    files = sorted((folder / "checkpoints" / "run").glob(f"{tag}_net_*.pth"))
    return {f"{f.name} {k}": v for f in files for k, v in torch.load(f).items()}


def losses(folder):
    return logged_losses(folder / "checkpoints" / "run")


@pytest.mark.parametrize("tag", ["2", "latest"])  # before and after the run was continued
def test_two_machines_train_the_weights_of_one_bit_for_bit(tag, printed, folders):
    a, b = (weights(folders / name, tag) for name in ("alpha", "local"))
    assert a.keys() == b.keys() and len(a) > 20
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_two_machines_log_what_one_logs(printed, folders):
    assert printed.count("on 4 ranks (cpu), batch size 1 each, 4 in all") == 2
    rows = losses(folders / "alpha")
    assert [row["epoch"] for row in rows] == ["1", "1", "2", "2", "3", "3"]
    assert rows == losses(folders / "local")


def test_only_the_disk_of_the_first_machine_is_written_to(printed, folders):
    """So continuing, too, needs the checkpoint on the first machine alone."""
    assert printed.count("epochs 3 to 3") == 1
    before, after = (list(weights(folders / "alpha", tag).values()) for tag in ("2", "latest"))
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert {path.name for path in (folders / "alpha").iterdir()} == {"data", "checkpoints"}
    assert {path.name for path in (folders / "beta").iterdir()} == {"data"}


# stands for SLURM: `srun [options] COMMAND` runs it on both machines, in the same folder
SRUN = """#!/usr/bin/env bash
while [[ "$1" == -* ]]; do shift; done
{alpha} "$@" & first=$!
{beta} "$@" & second=$!
wait $first && wait $second
"""


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


def test_the_slurm_script_starts_one_job_on_all_machines(machines, tmp_path):
    data, out, programs = tmp_path / "data", tmp_path / "checkpoints", tmp_path / "bin"
    write_images(data / "train", 4, width=64)
    programs.mkdir()
    enter = {m.name: " ".join(f"'{word}'" for word in m.enter) for m in machines}
    executable(programs / "srun", SRUN.format(**enter))
    executable(programs / "scontrol", "#!/bin/sh\necho alpha; echo beta\n")
    environment = {
        "SLURM_JOB_ID": "7123", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOB_NODELIST": "two", "SLURM_SUBMIT_DIR": str(ROOT),
        "GLOO_SOCKET_IFNAME": CABLE, "PYTHON": sys.executable,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    spooled = shutil.copy(ROOT / "scripts" / "train_slurm.sh", tmp_path)  # as sbatch does
    options = ["--dataroot", data, "--checkpoints_dir", out, "--name", "two  words", *TINY]
    options += ["--no_html", "--n_epochs", "1", "--n_epochs_decay", "0"]
    job = start(["bash", spooled, *options], tmp_path, **environment)
    assert finish(job, folder=tmp_path).count("on 4 ranks (cpu)") == 1
    assert (out / "two  words" / "latest_net_G.pth").exists()


def test_both_machines_end_when_the_cable_is_pulled(machines):
    """Nobody is told: each has to give up by itself, after --dist_timeout of 6 seconds."""
    log = machines[0].folder.parent / "printed.txt"
    jobs = start_on_two(machines, ["--n_epochs", "9999", "--dist_timeout", "0.1"])
    try:
        until(lambda: "(epoch: 1" in log.read_text(), LIMIT)
        call("ip", "-n", machines[1].netns, "link", "set", CABLE, "down")
        until(lambda: all(job.poll() is not None for job in jobs), LIMIT)
        assert all(job.returncode for job in jobs)
        assert "lost the other ranks" in log.read_text()
    finally:
        for job in jobs:
            end(job)
        log.unlink()
        machines[1].plug_in_again()


def until(done, seconds):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)
