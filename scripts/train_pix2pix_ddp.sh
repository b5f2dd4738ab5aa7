#!/usr/bin/env bash
# train_pix2pix.sh with one process per GPU; NPROC=2 sets their number
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
NPROC="${NPROC:-$(python -c 'import torch; print(torch.cuda.device_count() or 1)')}"
torchrun --nproc_per_node="$NPROC" train.py --dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --netG unet_256 --direction BtoA --lambda_L1 100 --dataset_mode aligned --norm syncbatch --pool_size 0 "$@"
