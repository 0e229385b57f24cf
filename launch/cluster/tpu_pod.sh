#!/usr/bin/env bash
# Trains on all hosts of a TPU pod slice, from a machine that has gcloud:
#
#   TPU=my-v5e-32 ZONE=us-west4-a launch/cluster/tpu_pod.sh --config=configs/cnc.py:stage=local \
#       --workdir=/shared/runs/local --config.init=/shared/uni.ckpt --config.data=/shared/shards/coco
#
# Every host needs the code, its packages (pip install -e '.[tpu]') and the same file system at the
# same path for workdir and data, such as Filestore (NFS). The hosts find each other by themselves.
# CODE is the repository's folder on the hosts.

set -eu

: "${TPU:?set TPU to the name of the TPU}"
: "${ZONE:?set ZONE to its zone}"
code="${CODE:-cnc-fgdm-jax}"
# Kept from start to start, and on a shared file system by all hosts together.
cache="${JAX_COMPILATION_CACHE_DIR:-/tmp/xla_cache}"

on() {
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker="$1" --command="$2"
}

# The run belongs to the hosts and not to this connection, which may be lost. The words are quoted
# once more, as the shell of the host reads them again.
words=$(printf ' %q' --config.distributed=True "$@")
on all "cd $(printf '%q' "$code") && JAX_COMPILATION_CACHE_DIR=$(printf '%q' "$cache") \
nohup setsid python3 -m launch.train$words >>train.log 2>&1 </dev/null &"

# SIGTERM to one host is enough: all finish the step, save, and end with status 75.
cat <<END
watch: gcloud compute tpus tpu-vm ssh $TPU --zone=$ZONE --worker=0 --command='tail -f $code/train.log'
stop:  gcloud compute tpus tpu-vm ssh $TPU --zone=$ZONE --worker=0 --command='pkill -TERM -f [l]aunch.train'
go on: the same command again, on this or another TPU, as a checkpoint fits any mesh
END
