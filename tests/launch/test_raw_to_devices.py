"""From raw COCO, Pick-a-Pic and ADE20K trees to batches on eight devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.prepare import get_config
from input_pipeline.shards.records import ShardedRecords
from input_pipeline.stream import StreamConfig, batches
from input_pipeline.testing import write_ade20k, write_coco, write_pickapic
from launch.preparing import prepare
from tests.input_pipeline.prepare.onnx_file import write_saliency_network
from tests.input_pipeline.tiny_dpt import write_dpt
from tests.launch.tiny_networks import write_inpainting

ROOT = Path(__file__).parents[2]
CNC_KEYS = ("image", "depth_maps", "masks", "exemplar_embeddings", "captions")

ON_DEVICES = """
import json, sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from input_pipeline.shards.records import ShardedRecords
from input_pipeline.stream import StreamConfig, batches

folders, keys, variables = json.loads(sys.argv[1])
mesh = jax.make_mesh((4, 2), ("data", "fsdp"), (AxisType.Auto,) * 2)
rows = NamedSharding(mesh, P(("data", "fsdp")))
found = []
for sources, wanted in ((folders[:2], keys), (folders[2:], variables)):
    config = StreamConfig(tuple(wanted), batch_size=8, sizes=((64, 64),), flip=0.0)
    with batches([ShardedRecords(f) for f in sources], config, stop_step=2) as stream:
        for batch in stream:
            arrays = {k: v for k, v in batch.items() if isinstance(v, np.ndarray)}
            put = {
                k: jax.make_array_from_process_local_data(rows, v) for k, v in arrays.items()
            }
            assert all(len(a.sharding.device_set) == 8 for a in put.values())
            total = jax.jit(lambda a: a.astype("float32").sum())
            sums = {k: float(total(a)) for k, a in put.items()}
            assert all(np.allclose(sums[k], v.sum(), rtol=1e-3) for k, v in arrays.items())
            found.append({k: list(v.shape) for k, v in arrays.items()})
from launch.device_batches import DeviceBatches

steps = DeviceBatches(5)
assert steps.batch_size == 8
images = [np.full((4, 4), n, np.float32) for n in range(5)]
scale = steps.replicate(np.float32(3))
rows_out = steps.run(jax.jit(lambda x: x * scale), images)
assert [float(row[0, 0]) for row in rows_out] == [0, 3, 6, 9, 12]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Returns shards of COCO, Pick-a-Pic and ADE20K."""
    pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("raw")
    write_coco(root / "coco", 5, (80, 96))
    write_pickapic(root / "pickapic")
    write_ade20k(root / "ade20k", 4, (80, 96))
    model = str(write_inpainting(root / "inpainting"))
    common = {
        "sizes": "64x64",
        "num_shards": 2,
        "batch_size": 2,
        "num_steps": 2,
        "dilation": 4,
        "inpainting": model,
        "clip": model,
        "depth_estimator": str(write_dpt(root / "dpt")),
    }
    saliency = str(write_saliency_network(root / "u2net.onnx"))
    special = {
        "coco": {},
        "pickapic": {"mask_classes": "", "saliency": saliency, "stop_words": "none"},
        "ade20k": {},
    }
    found = []
    for name, options in special.items():
        config = get_config(f"dataset={name}")
        config.update(common)
        config.update({"root": str(root / name), "output": str(root / "shards" / name), **options})
        found.append(prepare(config))
    return found


def test_both_sources_of_the_paper_in_one_batch(folders):
    sources = [ShardedRecords(folder) for folder in folders[:2]]
    assert all(len(source) for source in sources)
    config = StreamConfig(CNC_KEYS, batch_size=8, sizes=((64, 64),))
    with batches(sources, config, stop_step=3) as stream:
        seen = list(stream)
    captions = [caption for batch in seen for caption in batch["captions"]]
    for source in sources:
        own = {caption for record in source for caption in record["captions"]}
        assert own & set(captions)
    for batch in seen:
        assert batch["image"].shape == (8, 64, 64, 3)
        assert batch["depth_maps"].shape == (8, 2, 64, 64, 3)
        assert batch["exemplar_embeddings"].shape == (8, 2, 64)
        assert -1 <= batch["image"].min() < batch["image"].max() <= 1
        # The foreground's depth is that of the cut-out.
        assert 0 < batch["masks"][:, 0].mean() < 1
        np.testing.assert_allclose(batch["masks"].sum(axis=1), 1)


def test_batches_arrive_on_eight_devices(folders):
    names = [str(folder) for folder in folders]
    keys = [key for key in CNC_KEYS if key != "captions"]
    variables = ["image", "segmentation", "depth", "normal", "sketch", "canny"]
    done = subprocess.run(
        [sys.executable, "-c", ON_DEVICES, json.dumps([names, keys, variables])],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found[0]["depth_maps"] == [8, 2, 64, 64, 3]
    assert found[2]["segmentation"] == [8, 64, 64, 3]
    assert found[2]["present"] == [8, 5]


def test_shards_of_several_shapes_make_batches_of_one_shape(folders, tmp_path):
    root = folders[0].parents[1]
    config = get_config("dataset=coco")
    config.update({"root": str(root / "coco"), "output": str(tmp_path / "o"), "steps": ""})
    config.num_shards = 1
    source = ShardedRecords(prepare(config))
    np.testing.assert_array_equal(source.sizes(), [[80, 96]] * len(source))
    sizes = ((64, 64), (64, 128), (128, 64))
    stream_config = StreamConfig(("image", "segmentation"), batch_size=2, sizes=sizes)
    with batches([source], stream_config, stop_step=2) as stream:
        assert {batch["image"].shape for batch in stream} == {(2, 64, 64, 3)}
