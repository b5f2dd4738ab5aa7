#!/usr/bin/env bash
# The checks of this project: an environment, ruff, mypy and the unit tests. The first argument may
# be --all (every tier) or --rest (only the tiers besides unit); the others go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh requirements.txt requirements-dev.txt

tiers=(tests/unit)
workers=2
case "${1:-}" in
    --all) tiers=(tests); shift ;;
    # these mostly wait for processes that they have started
    --rest) tiers=(tests/stress tests/ranks tests/browser); workers=3; shift ;;
esac
TIMEFORMAT="(%0R s)"
if [ "${tiers[0]}" != tests/stress ]; then
    ruff check .
    ruff format --check .
    time mypy
fi
time python -m pytest -q -n "$workers" --dist loadfile "${tiers[@]}" "$@"
