#!/usr/bin/env bash
# From nothing to a trained model, in some minutes on a CPU: an environment, a dataset drawn from
# a seed, a small pix2pix from label maps to facades, its results.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then
    echo "error: demo.sh takes no arguments; train with options of your own by: python train.py" >&2
    exit 2
fi
. scripts/environment.sh requirements.txt

python scripts/make_demo_dataset.py
python train.py --dataroot ./datasets/demo --name demo --model pix2pix --direction BtoA \
    --netG unet_128 --norm instance --load_size 143 --crop_size 128 --ngf 32 --ndf 32 \
    --batch_size 2 --lr 0.0004 --n_epochs 4 --n_epochs_decay 4
python test.py --dataroot ./datasets/demo --name demo --model pix2pix
python scripts/held_out_l1.py --dataroot ./datasets/demo --name demo --model pix2pix

link() { python -c 'import pathlib, sys; print(pathlib.Path(sys.argv[1]).absolute().as_uri())' "$1"; }
echo
echo "The results:        $(link results/demo/test_latest/index.html)"
echo "How training went:  $(link checkpoints/demo/web/index.html)"
echo "To continue by hand: source ${VENV:-.venv}/bin/activate"
