"""Records in ArrayRecord shards: written whole, checked to the byte, read one by one.

Preparation writes shards (`write_shard`) and describes them when all are there (`write_manifest`);
training reads the folder (`ShardedRecords`).
"""

from input_pipeline.shards.assemble import write_manifest
from input_pipeline.shards.index import RecordIndex
from input_pipeline.shards.manifest import Manifest, ManifestError, read_manifest
from input_pipeline.shards.readers import Shard, ShardError
from input_pipeline.shards.records import ShardedRecords
from input_pipeline.shards.shard import (
    ShardInfo,
    finished_shard,
    shard_name,
    shard_rows,
    write_shard,
)
from input_pipeline.shards.verification import verify

__all__ = [
    "Manifest",
    "ManifestError",
    "RecordIndex",
    "Shard",
    "ShardError",
    "ShardInfo",
    "ShardedRecords",
    "finished_shard",
    "read_manifest",
    "shard_name",
    "shard_rows",
    "verify",
    "write_manifest",
    "write_shard",
]
