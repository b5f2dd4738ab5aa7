#!/usr/bin/env bash
# The checks of this project: an environment, ruff, pytest. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh requirements.txt requirements-dev.txt

ruff check .
ruff format --check .
python -m pytest -q -n 2 --dist loadfile "$@"
