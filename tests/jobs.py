"""A running program with all its processes, for tests that send them signals."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from torchrun import ROOT, launcher

# a program that trains models which lie beside it
WITH_PLUG_IN = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import models, train
from util import distributed
models.__path__.append(sys.path[1])  # where this file is
if __name__ == "__main__":
    distributed.run(train.main)
"""
# programs in front of which root may not write anywhere, either
WITHOUT_CAPABILITIES = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] * (os.geteuid() == 0)
IN_PROC = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="finds the processes of a job in /proc"
)


def stat(pid):
    """(state, parent, start time) of a process; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return fields[0], int(fields[1]), fields[19]


class Job:
    """A running program, by torchrun or not, with all its processes, in a group of their own."""

    def __init__(self, folder, *command):
        self.output = folder / "output.txt"  # a pipe would stay open as long as an orphan lives
        with open(self.output, "w") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.seen = {}

    def look(self):
        """Note the processes there are by now: torchrun, its ranks, their loader workers."""
        stats = {int(p.name): stat(p.name) for p in Path("/proc").glob("[0-9]*")}
        family = {self.process.pid}
        while True:
            more = {pid for pid, s in stats.items() if s and s[1] in family} - family
            if not more:
                break
            family |= more
        self.seen |= {pid: stats[pid][2] for pid in family if stats.get(pid)}

    def ranks(self):
        """The process id of each rank."""
        found = {}
        for pid in self.seen:
            now = stat(pid)
            if now and now[1] == self.process.pid:
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                found |= {int(e[5:]): pid for e in environment if e.startswith(b"RANK=")}
        return found

    def alive(self):
        """Those of the processes noted that still run (a zombie does not)."""
        now = {pid: stat(pid) for pid in self.seen}
        return [p for p, s in now.items() if s and s[2] == self.seen[p] and s[0] not in "ZX"]

    def wait(self, condition, seconds):
        """Wait until something is so; how long that took."""
        start = time.monotonic()
        while not condition():
            self.look()
            assert time.monotonic() - start < seconds, self.output.read_text()
            time.sleep(0.05)
        return time.monotonic() - start

    def ended(self):
        return self.process.poll() is not None


@contextmanager
def job(folder, *command, ranks=2, options=()):
    """A program on some ranks for the length of a block; `options` are torchrun's."""
    start = [*launcher(ranks), *options] if ranks > 1 else [sys.executable]
    running = Job(folder, *start, *map(str, command))
    try:
        yield running
    finally:
        running.look()
        running.process.kill()
        for pid in running.alive():
            os.kill(pid, signal.SIGKILL)
        running.process.wait()
