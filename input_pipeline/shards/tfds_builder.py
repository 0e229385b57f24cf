"""The same shards as a data set of tensorflow-datasets, which TensorFlow need not be there for.

    builder = tfds.builder_from_directory(folder)
    source = builder.as_data_source("train", decoders=skip_decoders(builder.info.features))
    dataset = grain.MapDataset.source(source).seed(0).shuffle()

Nothing is copied: `dataset_info.json` and `features.json` say how to read the shards. Text comes
as bytes. Without `decoders`, tensorflow-datasets decodes pictures itself, 16-bit ones only where
OpenCV is installed. Training reads through `ShardedRecords`, which is faster.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from input_pipeline.schema import BY_NAME, Field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from input_pipeline.shards.manifest import Manifest


def tfds_files(manifest: Manifest) -> dict[str, bytes]:
    """Returns the files that make a folder of shards a data set of tensorflow-datasets, by name.

    Args:
      manifest: of the folder; of its files nothing is used.
    """
    from etils import epath
    from tensorflow_datasets import core
    from tensorflow_datasets.core.dataset_info import DatasetIdentity

    with tempfile.TemporaryDirectory() as folder:
        template = core.ShardedFileTemplate(
            data_dir=epath.Path(folder),
            dataset_name=manifest.name,
            split=manifest.split,
            filetype_suffix="array_record",
        )
        info = core.DatasetInfo(
            builder=DatasetIdentity(
                name=manifest.name,
                version=core.Version(f"{manifest.schema_version}.0.0"),
                data_dir=folder,
                module_name="",
            ),
            features=tfds_features(manifest.fields),
            disable_shuffling=True,
        )
        info.set_file_format("array_record")
        split = core.SplitInfo(
            name=manifest.split,
            shard_lengths=[shard.records for shard in manifest.shards],
            num_bytes=sum(shard.bytes for shard in manifest.shards),
            filename_template=template,
        )
        info.set_splits(core.SplitDict([split]))
        info.write_to_directory(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def tfds_features(fields: Iterable[str]) -> Any:
    """Returns the `tfds.features.FeaturesDict` of records.

    Args:
      fields: names of the records' fields.
    """
    from tensorflow_datasets import features

    return features.FeaturesDict({name: _feature(BY_NAME[name]) for name in fields})


def skip_decoders(fields: Iterable[str]) -> dict[str, Any]:
    """Returns `decoders` for tensorflow-datasets that leave pictures as the files they are.

    Args:
      fields: names of the records' fields.
    """
    from tensorflow_datasets import decode

    pictures = ("photo", "grey", "deep", "rgb")
    return {name: decode.SkipDecoding() for name in fields if BY_NAME[name].kind in pictures}


def _feature(field: Field) -> Any:
    from tensorflow_datasets import features

    doc = field.meaning
    if field.kind == "texts":
        return features.Sequence(features.Text(), doc=doc)
    if field.kind in ("text", "json"):
        return features.Text(doc=doc)
    if field.kind == "number":
        return features.Scalar(np.int64, doc=doc)
    if field.kind == "array":
        # As bytes, because protobuf has no halves, and reads its lists of floats one by one.
        shape = (None,) * field.rank
        return features.Tensor(shape=shape, dtype=np.dtype(field.dtype), encoding="bytes", doc=doc)
    if field.kind == "photo":
        return features.Image(shape=(None, None, 3), doc=doc)
    channels = 3 if field.kind == "rgb" else 1
    dtype = np.uint16 if field.kind == "deep" else np.uint8
    return features.Image(shape=(None, None, channels), dtype=dtype, encoding_format="png", doc=doc)
