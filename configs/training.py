"""Settings of every training run: what a loop, a mesh and a data set need, whatever is trained.

`configs/cnc.py` adds what is special to Compose and Conquer. Lists are joined by commas.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config, unlocked."""
    config = ConfigDict()

    # What to start from.
    config.init = ""  # checkpoints: files, folders, converted directories, workdirs of earlier runs
    config.num_heads = 0  # attention heads where no config.json tells them; 0 is 8
    config.use_ema = False  # averaged weights, from an original file that has both

    # Data.
    config.data = ""  # folders of shards, or scenes, this project's procedural world
    config.weights = ""  # shares of several folders; in proportion to their sizes unless given
    config.eval_data = ""  # folders held out; data, without dropout, unless given
    config.sizes = "512x512"  # HEIGHTxWIDTH of batches, several for aspect buckets
    config.latents = "encode"  # or cached: from the shards, with no crop or flip
    config.text = "encode"  # or cached: the text encoder's states from the shards
    config.crop = "centre"  # or random
    config.flip = 0.0  # probability of a mirrored example
    config.caption = "random"  # any of an image's captions, or first
    config.drop_caption = 0.1  # probability of the empty caption
    config.bad_records = "fail"  # or skip: another record takes its place
    config.max_bad_records = 100  # that may be skipped
    config.workers = 0  # processes that prepare batches; 0 for threads
    config.scenes_seed = 0  # which world; the next one is held out

    # How long and how fast.
    config.global_batch_size = 32  # examples of a step, on all devices together
    config.accumulation = 1  # microbatches that they are computed in
    config.num_epochs = 0.0  # over the data; or
    config.num_steps = 0  # updates of the parameters
    config.seed = 0  # of data order, timesteps, noise, dropout and new weights
    config.optimizer = "adamw"  # or adamw8bit, adafactor: less memory; muon: fewer steps
    config.learning_rate = 1e-5  # after the warm-up
    config.schedule = "constant"  # or cosine, linear: to zero at the end
    config.warmup_steps = 0  # from zero to the learning rate
    config.weight_decay = 0.01  # decoupled
    config.max_grad_norm = 0.0  # gradients are clipped to it; 0 for no clipping
    config.ema_decay = 0.0  # of an average of the parameters; 0 keeps none
    config.min_snr_gamma = 0.0  # weights timesteps (arXiv:2303.09556); 0 for equal weights
    config.max_skipped = 10  # steps in a row that may have a loss that is not finite

    # Devices.
    config.data_parallel = -1  # devices that examples are spread over; -1 takes the rest
    config.fsdp = 1  # devices that examples and parameters are spread over
    config.tensor = 1  # devices that each layer is spread over
    config.frozen = "replicated"  # or sharded: frozen parameters over fsdp and tensor too
    config.dtype = "float32"  # or bfloat16: of the computation; parameters stay float32
    config.frozen_dtype = "float32"  # or bfloat16: of frozen parameters
    config.remat = "none"  # or dots, layers, blocks: what is computed twice to save memory
    config.attention = "auto"  # or einsum, xla, cudnn
    config.deterministic = False  # on GPUs: the same bits at every start, at some cost in speed
    config.distributed = False  # several processes, found through SLURM, Open MPI, TPU pod or GKE
    config.memory_limit_gb = 0.0  # of a device, for the check before step 0; 0 asks the device

    # What to write, in steps; 0 for never.
    config.log_every = 50  # metrics
    config.eval_every = 1000  # loss by timestep on a fixed set
    config.eval_examples = 64  # of that set
    config.sample_every = 1000  # pictures of a few held-out conditions
    config.num_samples = 4  # of them
    config.sample_steps = 25  # of the sampler
    config.guidance_scale = 7.5  # of the sampler
    config.save_every = 1000  # checkpoints
    config.keep_last = 3  # checkpoints that are kept
    config.keep_every = 0  # of which those of every so many steps are kept for good
    config.writers = "json,tensorboard"  # or wandb too
    config.profile_steps = ""  # FIRST-LAST: steps that jax.profiler traces

    # Going on.
    config.on_damaged_checkpoint = "fail"  # or previous: go on from the one before
    config.accept_changes = False  # go on although settings that change results are others
    return config
