#!/usr/bin/env bash
# train_pix2pix.sh with one process per GPU; NPROC=2 sets their number
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/python.sh
NPROC="${NPROC:-$("$python" -c 'import torch; print(torch.cuda.device_count() or 1)')}"
"$python" -m torch.distributed.run --nproc_per_node="$NPROC" train.py --dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --netG unet_256 --direction BtoA --lambda_L1 100 --dataset_mode aligned --norm syncbatch --pool_size 0 "$@"
