#!/usr/bin/env bash
# pix2pix, colours from grey images
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/python.sh
"$python" train.py --dataroot ./datasets/colorization --name color_pix2pix --model colorization "$@"
