#!/usr/bin/env bash
# Generator NAME to checkpoints/NAME_pretrained/latest_net_G.pth; download.py --help lists the names
set -euo pipefail
python "$(dirname "${BASH_SOURCE[0]}")/download.py" pix2pix-model "$@"
