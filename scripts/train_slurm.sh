#!/usr/bin/env bash
# pix2pix on the nodes of a SLURM job, one process per GPU. From the folder of the repository:
#
#   sbatch scripts/train_slurm.sh
#   sbatch --nodes=4 scripts/train_slurm.sh --dataroot /shared/maps --name maps   # changes on the fly
#
# What sbatch is given goes before these lines, what train.py is given after "$@" overrides its own.
# Three minutes before the time is up training saves, and the job is put back into the queue; a
# preempted job gets SIGTERM from SLURM and saves as well. Started again, it continues by itself.
#SBATCH --job-name=pix2pix
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1         # one torchrun on each node; it starts a process for every GPU
#SBATCH --gpus-per-node=4           # some clusters want --gres=gpu:4
#SBATCH --cpus-per-task=20          # for each GPU a process and its --num_threads 4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append          # one log for all starts
#SBATCH --signal=B:USR1@180         # to this script, 180 s before the end
#SBATCH --output=%x-%j.out
##SBATCH --partition=gpu            # ask your cluster; one # makes these count
##SBATCH --account=project
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"  # SLURM runs a copy of this file elsewhere

# The environment, the same on all nodes; without a line here, what scripts/python.sh finds:
# module load cuda
# source ~/environments/torch/bin/activate
. scripts/python.sh

# Only if the nodes do not find each other (docs/distributed.md): the interface between them
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0

nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
port=$((20000 + SLURM_JOB_ID % 10000))  # of its own, should two jobs share a node
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"  # srun no longer inherits it (SLURM 22.05)

# SIGTERM to the processes of the step makes training save and end; torchrun gives them 30 seconds
requeue() {
    echo "the time is nearly up: saving, to continue when the job is started again"
    scancel --signal=TERM "$SLURM_JOB_ID"  # its steps, not this script
    if wait "$training"; then exit 0; fi  # it was about to end by itself
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap requeue USR1

srun --kill-on-bad-exit=1 "$python" -m torch.distributed.run \
    --nnodes="$SLURM_JOB_NUM_NODES" \
    --nproc_per_node="${SLURM_GPUS_ON_NODE:-gpu}" \
    --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="${nodes[0]}:$port" \
    train.py --dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --netG unet_256 --direction BtoA --lambda_L1 100 --dataset_mode aligned --norm syncbatch --pool_size 0 "$@" &
training=$!
wait "$training"
