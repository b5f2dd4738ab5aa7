#!/usr/bin/env bash
# Both directions of what train_cyclegan.sh trained
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/python.sh
"$python" test.py --dataroot ./datasets/maps --name maps_cyclegan --model cycle_gan --phase test --no_dropout "$@"
