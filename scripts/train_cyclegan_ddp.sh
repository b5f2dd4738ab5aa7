#!/usr/bin/env bash
# train_cyclegan.sh with one process per GPU; NPROC=2 sets their number
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/python.sh
NPROC="${NPROC:-$("$python" -c 'import torch; print(torch.cuda.device_count() or 1)')}"
"$python" -m torch.distributed.run --nproc_per_node="$NPROC" train.py --dataroot ./datasets/maps --name maps_cyclegan --model cycle_gan --pool_size 50 --no_dropout "$@"
