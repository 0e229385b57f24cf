#!/usr/bin/env bash
# Makes the weights in sd_jax/data/scenes from nothing: no data, no download. Run it again after a
# stop: what is done is done, and the rest goes on.
#
#   launch/train_scenes.sh [folder for the runs] [further flags of launch.train ...]
#
# On a GPU add --config.dtype=bfloat16. The model cards in sd_jax/data/scenes tell times and quality.
set -euo pipefail
shopt -s nullglob

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
  local made="$runs/export/$2"
  python -m launch.export --checkpoint="$1" --layout=diffusers --dtype=float16 \
    --output="$made" --only="$3" --overwrite
  # The prior has the tokenizer for all.
  [ "$2" = prior ] || rm -rf "$made/tokenizer"
  # Part by part: the model card stays.
  for part in "$made"/*; do
    rm -rf "${weights:?}/$2/${part##*/}"
    cp -r "$part" "$weights/$2/"
  done
}

[ -d "$runs/tokenizer" ] ||
  python -m launch.make_tokenizer --data=scenes --output="$runs/tokenizer" --max_length=64

# The prior: an ordinary Stable Diffusion.
train autoencoder prior.py:stage=autoencoder --config.num_steps=8000 "$@"
train towers prior.py:stage=towers --config.num_steps=400 \
  --config.tokenizer="$runs/tokenizer" "$@"
train unet prior.py:stage=text_and_unet --config.num_steps=6500 \
  --config.init="$runs/autoencoder,$runs/towers" "$@"
train image_tower prior.py:stage=image_tower --config.num_steps=700 \
  --config.init="$runs/unet,$runs/towers" "$@"
train decoder prior.py:stage=decoder --config.num_steps=700 \
  --config.init="$runs/unet,$runs/image_tower" "$@"
export_to "$runs/decoder" prior vae,text_encoder,image_encoder,unet

# Compose and Conquer on it: two layers, then the depth of three.
prior=$runs/decoder
train local cnc.py:stage=local,scale=scenes --config.num_steps=600 --config.init="$prior" "$@"
train global cnc.py:stage=global,scale=scenes --config.num_steps=900 --config.init="$prior" "$@"
train joint cnc.py:stage=joint,scale=scenes --config.num_steps=1450 --config.drop_caption=0.2 \
  --config.learning_rate=7e-4 --config.init="$runs/local,$runs/global" "$@"
# The local fuser keeps the order of depth better than the one of stage joint.
train beside cnc.py:stage=beside,scale=scenes --config.num_steps=500 \
  --config.learning_rate=7e-4 --config.init="$runs/local,$runs/joint" "$@"
train three cnc.py:stage=layers,scale=scenes --config.num_steps=250 --config.init="$runs/local" "$@"
export_to "$runs/beside" cnc local_fuser,global_fuser
export_to "$runs/three" three local_fuser
python -m launch.share_weights --component="$weights/cnc/local_fuser" \
  --other="$weights/three/local_fuser"

# FG-DM on it: segmentation, depth and image are a chain, the others come each from the text.
train_factor() { # name of the run, steps, config, settings
  local name=$1 steps=$2 config=$3
  shift 3
  train "$name" "fgdm.py:factor=$config,scale=scenes" --config.num_steps="$steps" \
    --config.init="$prior" "$@"
}
train_factor segmentation 6500 segmentation "$@"
train_factor depth 600 chain --config.trained=depth "$@"
# An image has the colours that its text names.
train_factor image 2800 chain --config.trained=image --config.adapter_text=0 "$@"
# Plain adapters, which are smaller: all weights together shall be.
train_factor layered 1200 layered --config.adapter=plain "$@"
small=(--config.adapter=plain --config.adapter_text=32)
train_factor normal 350 normal "${small[@]}" "$@"
train_factor sketch 600 sketch "${small[@]}" "$@"
factors=segmentation,depth,image,normal,sketch,foreground_depth,background_depth
export_to "$runs/segmentation,$runs/depth,$runs/image,$runs/normal,$runs/sketch,$runs/layered" \
  fgdm "adapter_${factors//,/,adapter_}"
