"""Which reader a file gets, and shard indices that must not lead anywhere else."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from sd_jax.files import CorruptFileError, UnsafeFileError, open_tensors

INDEX = "model.safetensors.index.json"


def write_index(folder, weight_map, name=INDEX):
    path = folder / name
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


@pytest.fixture
def shards(tmp_path):
    """Return the index of two good shards."""
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "m-1.safetensors")
    save_file({"b": np.zeros((2, 2), np.int8)}, tmp_path / "m-2.safetensors")
    return write_index(tmp_path, {"b": "m-2.safetensors", "a": "m-1.safetensors"})


def test_missing_file_and_folder_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.ckpt: does not exist"):
        open_tensors(tmp_path / "nothing.ckpt")
    with pytest.raises(ValueError, match="is a folder"):
        open_tensors(str(tmp_path))


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model", "model.safetensors"])
def test_safetensors_are_known_by_content(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(save({"a": np.arange(3, dtype=np.int32)}))
    assert open_tensors(path)["a"].read().tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["model.safetensors", "MODEL.SAFETENSORS", ".safetensors"])
def test_a_pickle_called_safetensors_is_not_read(tmp_path, name):
    torch = pytest.importorskip("torch")
    path = tmp_path / name
    with path.open("wb") as file:
        torch.save({"a": torch.ones(1)}, file)
    with pytest.raises(CorruptFileError, match="the header claims"):
        open_tensors(path)


def tar_bytes():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (pickle.dumps({"a": 1}, protocol=2), "bare pickle"),
        (pickle.dumps({"a": 1}, protocol=5), "bare pickle"),
        (pickle.dumps({"a": 1}, protocol=0), "no known format"),
        (tar_bytes(), "tar file"),
        (b"\x89PNG\r\n\x1a\n", "no known format"),
    ],
)
def test_other_formats_are_refused_with_advice(tmp_path, content, expected):
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(UnsafeFileError, match=expected) as caught:
        open_tensors(path)
    assert "torch.save(torch.load(old, weights_only=True), new)" in str(caught.value)


def test_legacy_torch_file_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UnsafeFileError, match="legacy torch file"):
        open_tensors(path)


def test_empty_file(tmp_path):
    path = tmp_path / "model.ckpt"
    path.touch()
    with pytest.raises(CorruptFileError, match="the file is empty"):
        open_tensors(path)


def test_index_gives_all_shards_in_its_order(shards):
    tensors = open_tensors(shards)
    assert list(tensors) == ["b", "a"]
    assert tensors["a"].read().tolist() == [1, 1]
    assert tensors["b"].read().shape == (2, 2)


def test_index_of_a_variant_is_known(shards):
    variant = shards.rename(shards.with_name("model.safetensors.index.fp16.json"))
    assert set(open_tensors(variant)) == {"a", "b"}


def test_bin_index_reads_torch_shards(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.arange(3)}, tmp_path / "m-1.bin")
    index = write_index(tmp_path, {"a": "m-1.bin"}, "pytorch_model.bin.index.json")
    assert open_tensors(index)["a"].read().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "shard",
    [
        "../m-1.safetensors",
        "sub/m-1.safetensors",
        "..\\m-1.safetensors",
        "C:m-1.safetensors",
        "/m-1.safetensors",
        "m-1.safetensors\0.safetensors",
        "..",
        "",
        "m-1.ckpt",
        INDEX,
    ],
)
def test_shard_names_must_be_plain(tmp_path, shards, shard):
    # All of these exist or could: refusal must come from the name alone.
    (tmp_path / "sub").mkdir()
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "sub" / "m-1.safetensors")
    index = write_index(tmp_path, {"a": shard, "b": "m-2.safetensors"})
    with pytest.raises(UnsafeFileError, match="is not a plain file name in the same folder"):
        open_tensors(index)


def test_absolute_shard_name_is_refused(tmp_path, shards):
    index = write_index(tmp_path, {"a": str(tmp_path / "m-1.safetensors")})
    with pytest.raises(UnsafeFileError, match="is not a plain file name"):
        open_tensors(index)


def test_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "model").mkdir()
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "secret" / "x.safetensors")
    (tmp_path / "model" / "m.safetensors").symlink_to(tmp_path / "secret" / "x.safetensors")
    index = write_index(tmp_path / "model", {"a": "m.safetensors"})
    with pytest.raises(UnsafeFileError, match="a link that leads out of the folder"):
        open_tensors(index)


def test_links_of_a_download_cache_are_followed(tmp_path):
    """A hub cache stores files under hashes and links each of them, the index included."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots"
    blobs.mkdir()
    snapshot.mkdir()
    save_file({"a": np.ones(2, np.float32)}, blobs / "0123")
    write_index(blobs, {"a": "m.safetensors"}, "4567")
    (snapshot / "m.safetensors").symlink_to("../blobs/0123")
    (snapshot / INDEX).symlink_to("../blobs/4567")
    assert open_tensors(snapshot / INDEX)["a"].read().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("weight_map", "expected"),
    [
        ({"a": "m-1.safetensors", "b": "m-1.safetensors"}, "'b' is listed in shard"),
        (
            {"a": "m-1.safetensors", "b": "m-3.safetensors"},
            "'m-3.safetensors' is not in the folder",
        ),
        ({"a": "m-1.safetensors", "b": 3}, "'b': 3 is not a file name"),
        ([], 'there is no "weight_map" object'),
    ],
)
def test_inconsistent_index(tmp_path, shards, weight_map, expected):
    with pytest.raises(CorruptFileError, match=expected):
        open_tensors(write_index(tmp_path, weight_map))


def test_unlisted_tensor_is_named(tmp_path, shards):
    save_file({"a": np.ones(1, np.int8), "z": np.ones(1, np.int8)}, tmp_path / "m-1.safetensors")
    with pytest.raises(CorruptFileError, match="holds tensor 'z', which the index does not list"):
        open_tensors(shards)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"weight_map": {', b"[" * 100_000])
def test_index_that_is_no_json_object(tmp_path, content):
    path = tmp_path / INDEX
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="the index is not valid JSON"):
        open_tensors(path)


def test_index_with_a_key_twice(tmp_path, shards):
    text = '{"weight_map": {"a": "m-1.safetensors", "a": "m-2.safetensors"}}'
    shards.write_text(text)
    with pytest.raises(CorruptFileError, match="key 'a' appears twice"):
        open_tensors(shards)
