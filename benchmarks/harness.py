"""Measurements that can be compared on a busy machine: variants take turns, round by round.

A variant is a function that makes one round and returns its seconds. What else the machine does
meets all variants alike, so ratios are taken within rounds: the first variant's seconds over this
one's, above 1 where this one is faster. Importing this file makes the project importable.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Table(dict[str, list[float]]):
    """Seconds of the rounds of each variant, the first of which is the base."""

    def ratios(self, name: str) -> list[float]:
        """Round by round, how many times as fast as the base a variant is."""
        return [b / s for b, s in zip(next(iter(self.values())), self[name], strict=True)]

    def markdown(self, title: str, images: int = 0, **columns: Mapping[str, str]) -> str:
        """A table in seconds, or images/s where a round has `images`, and further columns."""
        unit = "images/s" if images else "seconds"
        heads = (title, f"{unit}: median (min to max)", f"ratio to {next(iter(self))}", *columns)
        rows = []
        for name, seconds in self.items():
            shown = [images / s for s in seconds] if images else seconds
            more = (column[name] for column in columns.values())
            rows.append((name, spread(shown), spread(self.ratios(name)), *more))
        return markdown(heads, rows)


def compare(
    variants: Mapping[str, Callable[[], float]],
    rounds: int,
    limit: float = math.inf,
    warm_ups: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> Table:
    """Let the variants take turns for `rounds` rounds, or as many as end within `limit` seconds.

    The first is always made; the `warm_ups` before it are neither in the table nor in the limit.
    """
    for one_round in list(variants.values()) * warm_ups:
        one_round()
    table = Table({name: [] for name in variants})
    start = clock()
    for done in range(rounds):
        if done and (clock() - start) * (done + 1) / done > limit:
            print(f"stopped after {done} of {rounds} rounds: --limit {limit:g}", file=sys.stderr)
            break
        for name, one_round in variants.items():
            table[name].append(one_round())
    return table


def timed(
    step: Callable[[], object],
    device: str = "cpu",
    count: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds per call of `count` calls of `step`, back to back, with the GPU's work."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = clock()
    for _ in range(count):
        step()
    wait()
    return (clock() - start) / count


class Worker(ProcessPoolExecutor):
    """A variant in a process of its own, as allocator settings and compiled code are a process's.

    `build` is called there with the first question; what it returns is called for each round.
    """

    def __init__(self, build: Callable[[], Any], threads: int) -> None:
        """`threads` are torch's; 0 is torch's choice."""
        super().__init__(1, multiprocessing.get_context("spawn"), _build, (build, threads))

    def __call__(self) -> float:
        """Make one round there; returns its seconds."""
        return self.ask("__call__")

    def ask(self, method: str) -> Any:
        """Call a method, without arguments, of what was built."""
        return self.submit(_answer, method).result()


def _build(build: Callable[[], Any], threads: int) -> None:
    sys.stdout = open(os.devnull, "w")  # only tables are printed
    multiprocessing.set_start_method(None, force=True)  # Python's choice for what is built, too
    torch.set_num_threads(threads or torch.get_num_threads())
    globals()["built"] = build()


def _answer(method: str) -> Any:
    return getattr(globals()["built"], method)()


@contextmanager
def workers(builds: Mapping[str, Callable[[], Any]], threads: int) -> Iterator[dict[str, Worker]]:
    """A worker for each of `builds`, until the end of the block."""
    with ExitStack() as stack:
        yield {k: stack.enter_context(Worker(build, threads)) for k, build in builds.items()}


def parser(doc: str, rounds: int, only: Iterable[str]) -> argparse.ArgumentParser:
    """The options that all benchmarks share; `only` are the cases."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, cases = made.add_argument, list(only)
    add("--rounds", type=int, default=rounds, help="of each variant, after the warm-up")
    add("--limit", type=float, default=900, help="seconds for the rounds of a table")
    add("--threads", type=int, default=0, help="torch's; left out: torch's choice")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    if cases:
        add("--only", nargs="+", choices=cases, default=cases, metavar="CASE", help=f"of {cases}")
    return made


def start(made: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check the shared options, set the threads and print what is measured on."""
    if args.rounds < 1:
        made.error(f"--rounds {args.rounds}: 1 or more")
    if args.device == "cuda" and not torch.cuda.is_available():
        made.error("--device cuda: torch finds no CUDA GPU here; leave it out to measure the CPU")
    torch.set_num_threads(args.threads or torch.get_num_threads())
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{os.cpu_count()} cores"
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    print(f"{name}, {threads} threads, torch {torch.__version__}, load {load:.1f}", end=", ")
    print(f"{time.strftime('%Y-%m-%d')}: {' '.join(sys.argv)}\n", flush=True)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Median, minimum and maximum, with three digits or more."""
    found = (statistics.median(values), min(values), max(values))
    digits = max(0, 2 - math.floor(math.log10(abs(found[0]) or 1)))
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*found, d=digits)


def write_images(folder: Path, count: int, width: int, height: int) -> None:
    """JPEGs as smooth and as noisy as photographs."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = random.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) + random.normal(0, 4, (height, width, 3))
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{i:04d}.jpg", quality=90)
