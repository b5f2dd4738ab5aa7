#!/usr/bin/env bash
# Data set NAME to datasets/NAME; download.py --help lists the names
set -euo pipefail
python "$(dirname "${BASH_SOURCE[0]}")/download.py" cyclegan-dataset "$@"
