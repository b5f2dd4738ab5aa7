"""The harness of the benchmarks, on a clock that only the test moves."""

import argparse

import pytest

from benchmarks import harness


class Clock:
    """Seconds that pass when a step says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def variant(name, seconds, clock, order):
    """A variant whose rounds take the given seconds, one after the other."""
    left = iter(seconds)

    def step():
        order.append(name)
        clock.now += next(left)

    return lambda: harness.timed(step, clock=clock)


def test_variants_alternate_and_ratios_are_taken_within_rounds():
    clock, order = Clock(), []
    variants = {
        "slow": variant("slow", [99, 2, 8, 6], clock, order),
        "fast": variant("fast", [99, 1, 2, 6], clock, order),
    }
    table = harness.compare(variants, rounds=3, clock=clock)
    assert order == ["slow", "fast"] * 4
    assert table == {"slow": [2, 8, 6], "fast": [1, 2, 6]}  # without the warm-up
    assert table.ratios("fast") == [2, 4, 1]
    assert table.ratios("slow") == [1, 1, 1]


def test_a_round_of_several_steps_gives_seconds_per_step():
    clock, order = Clock(), []
    one_round = iter([1, 2, 3, 6])

    def step():
        order.append("step")
        clock.now += next(one_round)

    assert harness.timed(step, count=4, clock=clock) == 3
    assert len(order) == 4


@pytest.mark.parametrize("limit, rounds", [(1, 1), (39, 1), (40, 2), (100, 5)])
def test_rounds_that_would_not_end_in_time_are_left_out(limit, rounds, capsys):
    clock = Clock()
    variants = {name: variant(name, [500] + [10] * 5, clock, []) for name in "ab"}
    table = harness.compare(variants, rounds=5, limit=limit, clock=clock)
    assert [len(seconds) for seconds in table.values()] == [rounds, rounds]
    assert ("--limit" in capsys.readouterr().err) == (rounds < 5)


def test_a_table_shows_median_and_range():
    table = harness.Table({"plain": [4.0, 2.0, 2.0], "ours": [1.0, 1.0, 0.5]})
    assert table.markdown("step", memory={"plain": "3 GiB", "ours": "2 GiB"}).splitlines() == [
        "| step | seconds: median (min to max) | ratio to plain | memory |",
        "| --- | --- | --- | --- |",
        "| plain | 2.00 (2.00 to 4.00) | 1.00 (1.00 to 1.00) | 3 GiB |",
        "| ours | 1.00 (0.50 to 1.00) | 4.00 (2.00 to 4.00) | 2 GiB |",
    ]
    assert "| plain | 400 (200 to 400) |" in table.markdown("step", images=800)


@pytest.mark.parametrize("argv, named", [(["--rounds", "0"], "--rounds 0"), (["--only", "x"], "x")])
def test_a_wrong_option_is_named(argv, named, capsys):
    parser = harness.parser("doc", 5, ["a", "b"])
    with pytest.raises(SystemExit) as ended:
        harness.start(parser, parser.parse_args(argv))
    assert ended.value.code == 2 and named in capsys.readouterr().err


def test_a_worker_runs_in_a_process_of_its_own():
    with harness.workers({"a": argparse.Namespace}, threads=1) as workers:
        assert workers["a"].ask("__repr__") == "Namespace()"
        with pytest.raises(AttributeError, match="missing"):
            workers["a"].ask("missing")
