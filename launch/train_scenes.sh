#!/usr/bin/env bash
# Makes the weights in sd_jax/data/scenes from nothing: no data, no download. Run it again after a
# stop: what is done is done, and the rest goes on.
#
#   launch/train_scenes.sh [folder for the runs] [further flags of launch.train ...]
#
# On a GPU add --config.dtype=bfloat16. The model cards in sd_jax/data/scenes tell times and quality.
set -euo pipefail

runs=${1:-runs/scenes}
shift || true
weights=sd_jax/data/scenes
mkdir -p "$runs"

train() { # name of the run, config, settings
  local name=$1 config=$2
  shift 2
  python -m launch.train --config="configs/$config" --workdir="$runs/$name" "$@"
}

export_to() { # runs, folder, components
  python -m launch.export --checkpoint="$1" --layout=diffusers --dtype=float16 \
    --output="$weights/$2" --only="$3" --overwrite
}

[ -d "$runs/tokenizer" ] ||
  python -m launch.make_tokenizer --data=scenes --output="$runs/tokenizer" --max_length=64

# The prior: an ordinary Stable Diffusion.
train autoencoder prior.py:stage=autoencoder "$@"
train towers prior.py:stage=towers --config.tokenizer="$runs/tokenizer" "$@"
train unet prior.py:stage=text_and_unet --config.init="$runs/autoencoder,$runs/towers" "$@"
train image_tower prior.py:stage=image_tower --config.init="$runs/unet,$runs/towers" "$@"
train decoder prior.py:stage=decoder --config.init="$runs/unet,$runs/image_tower" "$@"
export_to "$runs/decoder" prior vae,text_encoder,image_encoder,unet

# Compose and Conquer on it, two layers, then the depth of three.
prior=$runs/decoder
train local cnc.py:stage=local,scale=scenes --config.init="$prior" "$@"
train global cnc.py:stage=global,scale=scenes --config.init="$prior" "$@"
train joint cnc.py:stage=joint,scale=scenes --config.init="$runs/local,$runs/global" "$@"
train three cnc.py:stage=layers,scale=scenes --config.init="$runs/joint" "$@"
export_to "$runs/joint" cnc local_fuser,global_fuser
export_to "$runs/three" three local_fuser
python -m launch.share_weights --component="$weights/cnc/local_fuser" \
  --other="$weights/three/local_fuser"

# FG-DM on it: segmentation, depth and image are a chain, the others come each from the text.
train segmentation fgdm.py:factor=segmentation,scale=scenes --config.init="$prior" \
  --config.num_steps=2000 "$@"
train depth fgdm.py:factor=chain,scale=scenes --config.trained=depth --config.init="$prior" "$@"
# An image has the colours that its text names.
train image fgdm.py:factor=chain,scale=scenes --config.trained=image --config.adapter_text=0 \
  --config.init="$prior" "$@"
# Plain adapters, which are smaller: all weights together shall be.
train layered fgdm.py:factor=layered,scale=scenes --config.adapter=plain --config.init="$prior" "$@"
for factor in normal sketch; do
  train "$factor" "fgdm.py:factor=$factor,scale=scenes" --config.adapter=plain \
    --config.adapter_text=32 --config.init="$prior" "$@"
done
factors=segmentation,depth,image,normal,sketch,foreground_depth,background_depth
export_to "$runs/segmentation,$runs/depth,$runs/image,$runs/normal,$runs/sketch,$runs/layered" \
  fgdm "adapter_${factors//,/,adapter_}"
