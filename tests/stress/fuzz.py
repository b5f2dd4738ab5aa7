"""Feed damaged and hostile files to every reader of the program, and count what happens.

    python tests/stress/fuzz.py --inputs 100000 --seed 0

Each input follows from (seed, reader, number). Inputs run in processes of limited memory, and an
input that takes too long ends its process; a process that ends counts as a crash of its input. The
inputs of crashes are kept in --keep. Prints a table; exit status 1 if there was a crash.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz_readers import READERS, Reader, check  # noqa: E402

CHUNK = 2500  # inputs of one process


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="how many, over all readers")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--readers", nargs="*", help="only these, in equal parts")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="processes")
    parser.add_argument("--memory", type=float, default=3.0, help="GiB that an input may take")
    parser.add_argument("--seconds", type=int, default=60, help="that an input may take")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_crashes"), help="folder")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)  # reader, first, last
    return parser.parse_args(argv)


def main() -> None:
    """Run the program, or one process of it."""
    args = parse()
    if args.part:
        run_part(args, args.part[0], range(int(args.part[1]), int(args.part[2])))
        return
    start = time.perf_counter()
    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda part: supervise(args, *part), parts(args)))
    crashes = report(results)
    print(f"{time.perf_counter() - start:.0f} s, {args.jobs} processes, seed {args.seed}")
    sys.exit(1 if crashes else 0)


def parts(args: argparse.Namespace) -> list[tuple[str, int, int]]:
    """(reader, first input, last input) for each process."""
    equal = {name: 1 / len(args.readers) for name in args.readers or []}
    found = []
    for name, share in (equal or {name: r.share for name, r in READERS.items()}).items():
        count = round(share * args.inputs)
        found += [(name, i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
    return found


# ---- one process -----------------------------------------------------------------------------


def run_part(args: argparse.Namespace, name: str, numbers: range) -> None:
    """Read the inputs, and write a line about each."""
    reader = READERS[name]
    with open(os.devnull, "w") as nowhere:
        report, sys.stdout, sys.stderr = sys.stdout, nowhere, nowhere
        seeds = reader.seeds()
        check(reader, Path("warm"), seeds[0])
        limit_memory(args.memory)
        rss = peak()
        for number in numbers:
            print("start", number, file=report, flush=True)
            signal.alarm(args.seconds)
            data = reader.make(random.Random(f"{args.seed} {name} {number}"), seeds)
            print(outcome(reader, data, Path("box")), file=report)
            signal.alarm(0)
        print("end", peak() - rss, file=report)


def outcome(reader: Reader, data: bytes, box: Path) -> str:
    """Read one input: "accepted", "refused", or "crash" and where."""
    (box / "folder").mkdir(parents=True)
    try:
        return "accepted" if check(reader, box / "folder", data) else "refused"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if f.filename.startswith(str(ROOT))]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return f"crash {type(error).__name__} {where} {' '.join(str(error).split())[:100]}"
    finally:
        shutil.rmtree(box)


def limit_memory(gigabytes: float) -> None:
    """Let this process take so much more than it has."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    most = now + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def peak() -> int:
    """The most memory that this process had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


# ---- all of them -----------------------------------------------------------------------------


def supervise(args: argparse.Namespace, name: str, first: int, last: int) -> tuple[str, Counter]:
    """Run a part; where its process ends early, note a crash and continue behind it."""
    counts = Counter()
    while first < last:
        done, output = start(args, name, first, last)
        numbers = [int(line.split()[1]) for line in output if line.startswith("start ")]
        results = [line for line in output if line.startswith(("accepted", "refused", "crash"))]
        if not numbers:
            raise SystemExit(f"{name}: the process does not start:\n{done.stderr[-2000:]}")
        for number, result in zip(numbers, results, strict=False):
            note(args, counts, name, number, result)
        if len(results) < len(numbers):
            note(args, counts, name, numbers[-1], f"crash of the process ({done.returncode})")
        ends = [int(line.split()[1]) for line in output if line.startswith("end")]
        counts["MB"] = max([counts["MB"], *ends])
        first = numbers[-1] + 1
    return name, counts


def start(args: argparse.Namespace, name: str, first: int, last: int):
    """Run one process to its end."""
    command = [sys.executable, __file__, "--part", name, str(first), str(last)]
    command += ["--seed", args.seed, "--memory", str(args.memory), "--seconds", str(args.seconds)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RANK": "0", "WORLD_SIZE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done, done.stdout.splitlines()


def note(args: argparse.Namespace, counts: Counter, name: str, number: int, result: str) -> None:
    """Count a result; keep the input of a crash."""
    counts["inputs"] += 1
    kind = result.split()[0]
    counts[kind] += 1
    if kind == "crash":
        print(f"{name} {number}: {result}", flush=True)
        args.keep.mkdir(exist_ok=True)
        reader, rng = READERS[name], random.Random(f"{args.seed} {name} {number}")
        file = f"{args.seed}-{name}-{number}".replace(" ", "_").replace("/", "_")
        (args.keep / file).write_bytes(reader.make(rng, reader.seeds()))


def report(results: list[tuple[str, Counter]]) -> int:
    """Print the table; returns the number of crashes."""
    table = {name: Counter() for name, _ in results} | {"all": Counter()}
    for name, counts in results:
        for row in (table[name], table["all"]):
            most = max(row["MB"], counts["MB"])
            row.update(counts)
            row["MB"] = most
    print(f"{'reader':18}{'inputs':>9}{'refused':>9}{'accepted':>9}{'crashes':>9}{'MB more':>9}")
    for name, row in table.items():
        columns = ("inputs", "refused", "accepted", "crash", "MB")
        print(f"{name:18}" + "".join(f"{row[column]:>9}" for column in columns))
    return table["all"]["crash"]


if __name__ == "__main__":
    main()
