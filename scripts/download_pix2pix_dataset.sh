#!/usr/bin/env bash
# Dataset NAME to datasets/NAME; download.py --help lists the names
set -euo pipefail
scripts="$(dirname "${BASH_SOURCE[0]}")"
. "$scripts/python.sh"
"$python" "$scripts/download.py" pix2pix-dataset "$@"
