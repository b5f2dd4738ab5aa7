#!/usr/bin/env bash
# Generator NAME to checkpoints/NAME_pretrained/latest_net_G.pth; download.py --help lists the names
set -euo pipefail
scripts="$(dirname "${BASH_SOURCE[0]}")"
. "$scripts/python.sh"
"$python" "$scripts/download.py" cyclegan-model "$@"
