#!/usr/bin/env bash
# Trains on a SLURM cluster, over the time limit and preemption:
#
#   sbatch --nodes=2 launch/cluster/slurm.sh --config=configs/cnc.py:stage=local \
#       --workdir=/shared/runs/local --config.init=/shared/uni.ckpt --config.data=/shared/shards/coco
#
# The workdir, the data and the code must be the same files on all nodes. #SBATCH lines are defaults
# that options of sbatch replace; a cluster may also want --partition, --account and --constraint.

#SBATCH --job-name=train
#SBATCH --nodes=1
# One task per GPU is what JAX expects. Fewer tasks share a node's GPUs out evenly. Leave the GPUs to
# the node (not --gpus-per-task), so that all of a node reach each other over NVLink.
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
# SIGUSR1 goes to every task 5 minutes before the time limit: the run finishes its step, saves, and
# ends with status 75. Let it be more than a step and a save take; without "B:", as it is here, the
# tasks get it and this shell does not.
#SBATCH --signal=USR1@300
# The log goes on after a requeue, and a preempted job may be requeued.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log

set -u

# Shared by the tasks and by every start, so that each program is compiled once.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/cnc_fgdm_jax/xla}"
# A proxy does not know the other nodes, and the processes would not find each other.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd, -)
export no_proxy="${no_proxy:+$no_proxy,}$nodes" NO_PROXY="${NO_PROXY:+$NO_PROXY,}$nodes"

# All tasks end with status 75 by themselves, one a little after the other: the first must not take
# the rest with it (--kill-on-bad-exit=0). Where one fails, the others have 5 minutes.
# srun has not taken the number of cores from the job since SLURM 22.05.
srun --kill-on-bad-exit=0 --wait=300 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    python -m launch.train --config.distributed=True "$@"
status=$?

# 75: saved, and not done. Whoever cancels the job does not want it back, and SLURM itself requeues
# a job that it preempts; both are no longer running by now.
if [ "$status" -eq 75 ] && scontrol show job "$SLURM_JOB_ID" | grep -q "JobState=RUNNING"; then
    echo "saved; the job goes into the queue again"
    scontrol requeue "$SLURM_JOB_ID" && exit 0
    echo "this cluster does not requeue; submit the same command again" >&2
fi
exit "$status"
