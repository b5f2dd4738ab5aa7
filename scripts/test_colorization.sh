#!/usr/bin/env bash
# Images from what train_colorization.sh trained
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/python.sh
"$python" test.py --dataroot ./datasets/colorization --name color_pix2pix --model colorization "$@"
