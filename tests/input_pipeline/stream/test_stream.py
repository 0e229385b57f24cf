from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from input_pipeline.schema import RecordError
from input_pipeline.stream import CNC_DROP, Helpers, StreamConfig, batches
from tests.input_pipeline.stream.fakes import (
    PALETTES,
    OddSource,
    PatternSource,
    RefusingSource,
    SpySource,
    draw_pose,
    tokenize,
)

HELPERS = Helpers(tokenizer=tokenize, palettes=PALETTES, draw_pose=draw_pose, exemplar_size=28)
CONFIG = StreamConfig(
    keys=(
        "image",
        "depth_maps",
        "edge_maps",
        "masks",
        "exemplar_embeddings",
        "exemplar_images",
        "input_ids",
        "captions",
        "segmentation",
        "normal",
        "pose",
    ),
    batch_size=8,
    seed=3,
    sizes=((64, 64), (64, 128)),
    weights=(2, 1),
    crop="random",
    flip=0.5,
    drop={**CNC_DROP, "normal": 0.2, "background_edges": 0.3},
    bad_records="skip",
)
STEPS = 8
SOURCES = (
    PatternSource("a", 20, record_sizes=((64, 64), (70, 128)), bad=(2, 5)),
    SpySource("b", 11, record_sizes=((80, 80),)),
)
ROOT = Path(__file__).parents[3]


def run(**arguments: Any) -> tuple[list[dict[str, Any]], dict[tuple[str, int], str]]:
    """Returns the batches of a run and its bad records."""
    config = arguments.pop("config", CONFIG)
    arguments = {"helpers": HELPERS, "num_threads": 1, "stop_step": STEPS} | arguments
    with batches(arguments.pop("sources", SOURCES), config, **arguments) as stream:
        return list(stream), stream.bad_records


def union(parts: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns global batches from those of all processes, in the order of the processes."""
    return [
        {
            key: np.concatenate([batch[key] for batch in local])
            if isinstance(local[0][key], np.ndarray)
            else list(itertools.chain(*(batch[key] for batch in local)))
            for key in local[0]
        }
        for local in zip(*parts, strict=True)
    ]


def assert_same(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if isinstance(value, np.ndarray):
                assert value.tobytes() == other[key].tobytes(), key
                assert value.shape == other[key].shape
            else:
                assert value == other[key]


@pytest.fixture(scope="module")
def expected() -> tuple[list[dict[str, Any]], dict[tuple[str, int], str]]:
    """Returns the run of one process without any thread or worker."""
    return run(prefetch=0)


def test_the_run_is_worth_comparing(expected: Any) -> None:
    found, bad_records = expected
    assert len(found) == STEPS
    shapes = [batch["image"].shape for batch in found]
    assert set(shapes) == {(8, 64, 64, 3), (8, 64, 128, 3)}
    images = [image.tobytes() for batch in found for image in batch["image"]]
    assert len(set(images)) > 0.9 * len(images)
    assert bad_records.keys() == {("a", 2), ("a", 5)}
    assert "" in {caption for batch in found for caption in batch["captions"]}
    for key in ("edge_maps", "exemplar_images"):
        there = np.concatenate([batch[key].any(axis=(2, 3, 4)) for batch in found])
        assert set(there[:, 1]) == {True, False}, key


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_together_have_the_same_batches(process_count: int, expected: Any) -> None:
    parts = [
        run(process_index=index, process_count=process_count) for index in range(process_count)
    ]
    assert_same(union([found for found, _ in parts]), expected[0])
    assert {name for _, bad_records in parts for name in bad_records} == set(expected[1])


def test_threads_change_nothing(expected: Any) -> None:
    assert_same(run(num_threads=4, prefetch=3)[0], expected[0])


@pytest.mark.parametrize("num_workers", [2, 4])
def test_workers_change_nothing(num_workers: int, expected: Any) -> None:
    found, bad_records = run(num_workers=num_workers)
    assert_same(found, expected[0])
    assert bad_records.keys() == expected[1].keys()


@pytest.mark.parametrize("stop", [1, 4, 7])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 1), (2, 4)])
def test_a_run_goes_on_with_other_processes(
    stop: int, before: int, after: int, expected: Any
) -> None:
    found = []
    for count, start_step, stop_step in ((before, 0, stop), (after, stop, STEPS)):
        parts = [
            run(
                process_index=index,
                process_count=count,
                start_step=start_step,
                stop_step=stop_step,
                prefetch=0,
            )
            for index in range(count)
        ]
        found += union([local for local, _ in parts])
    assert_same(found, expected[0])


def test_a_run_goes_on_with_workers_in_two_processes(expected: Any) -> None:
    parts = [
        run(process_index=index, process_count=2, start_step=3, num_workers=2)[0]
        for index in range(2)
    ]
    assert_same(union(parts), expected[0][3:])


def test_the_step_is_all_there_is_to_restore(expected: Any) -> None:
    with batches(SOURCES, CONFIG, helpers=HELPERS, num_threads=1) as stream:
        for step in range(3):
            assert stream.step == step
            next(stream)
    assert_same(run(start_step=stream.step)[0], expected[0][3:])
    with pytest.raises(StopIteration):
        next(stream)


def test_mixtures_have_their_shares() -> None:
    config = StreamConfig(("names",), 10, sizes=((64, 64),), weights=(0.7, 0.3))
    found, _ = run(config=config, sources=(PatternSource("a"), PatternSource("b")), stop_step=20)
    names = [name for batch in found for name in batch["names"]]
    assert sum(name.startswith("a/") for name in names) == pytest.approx(140, abs=2)


@pytest.fixture(scope="module")
def spied() -> list[list[str]]:
    """Returns what workers said of themselves: process, backends, platforms and GPUs."""
    config = StreamConfig(("image", "names"), 2, sizes=((64, 64),))
    with batches([SpySource("spy")], config, num_workers=2, stop_step=4) as stream:
        found = list(stream)
        image = found[0]["image"]
        copy = image.copy()
    names = [batch["names"] for batch in found]
    # The memory of a batch outlives the stream and the other arrays of the batch.
    del found
    gc.collect()
    assert np.array_equal(image, copy)
    return [name.removeprefix("spy/").split() for pair in names for name in pair]


def test_workers_never_touch_an_accelerator(spied: list[list[str]]) -> None:
    # Grain itself imports jax; no backend may come of it, and none but the CPU could.
    assert {tuple(words[1:]) for words in spied} == {("0", "cpu", "''")}


def test_workers_end_with_the_stream(spied: list[list[str]]) -> None:
    pids = {int(words[0]) for words in spied}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert not any(is_alive(pid) for pid in pids)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < deadline, f"worker {pid} is still there"
        time.sleep(0.05)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def test_a_killed_worker_is_an_error() -> None:
    config = StreamConfig(("names",), 1, sizes=((64, 64),))
    with batches([SpySource("spy")], config, num_workers=1, prefetch=1) as stream:
        os.kill(int(next(stream)["names"][0].removeprefix("spy/").split()[0]), signal.SIGKILL)
        with pytest.raises(RuntimeError, match="exit code -9"):
            list(itertools.islice(stream, 10))


@needs_proc
def test_workers_do_not_outlive_a_killed_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from input_pipeline.stream import StreamConfig, batches\n"
        "from tests.input_pipeline.stream.fakes import SpySource\n"
        "if __name__ == '__main__':\n"
        "    config = StreamConfig(('names',), 1, sizes=((64, 64),))\n"
        "    stream = batches([SpySource('spy')], config, num_workers=1)\n"
        "    print(next(stream)['names'][0].removeprefix('spy/').split()[0], flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        assert is_alive(worker)
    finally:
        process.kill()
        process.communicate()
    wait_for_end(worker)


ONE = StreamConfig(("image",), 4, sizes=((64, 64),))


def test_a_bad_record_ends_the_run_unless_it_may_be_skipped() -> None:
    source = PatternSource("a", 10, bad=(6,))
    with (
        batches([source], ONE) as stream,
        pytest.raises(RecordError, match=r"a: record 6 \(r6\): field 'image' cannot be decoded"),
    ):
        list(itertools.islice(stream, 5))
    with pytest.raises(StopIteration):
        next(stream)


def test_a_bad_record_is_an_error_of_the_same_type_in_a_worker() -> None:
    source = PatternSource("a", 4, bad=(0, 1, 2, 3))
    with (
        batches([source], ONE, num_workers=1) as stream,
        pytest.raises(RecordError, match=r"a: record \d \(r\d\): field 'image'"),
    ):
        next(stream)


def test_an_error_that_cannot_be_sent_still_arrives() -> None:
    with (
        batches([OddSource("odd")], ONE, num_workers=1) as stream,
        pytest.raises(RuntimeError, match="OddError: broken source"),
    ):
        next(stream)


def skipping(limit: int) -> StreamConfig:
    return StreamConfig(
        ("image", "names"), 4, sizes=((64, 64),), bad_records="skip", max_bad_records=limit
    )


@pytest.mark.parametrize("source", [PatternSource, RefusingSource])
def test_skipped_records_are_counted_once_each(source: type[PatternSource]) -> None:
    bad = (1, 4, 8)
    with batches([source("a", 10, bad=bad)], skipping(3)) as stream:
        found = list(itertools.islice(stream, 25))
        assert {index for _, index in stream.bad_records} == set(bad)
        assert all("a: record" in problem for problem in stream.bad_records.values())
    names = [name for batch in found for name in batch["names"]]
    assert len(names) == 100
    assert set(names) == {f"a/r{i}" for i in range(10) if i not in bad}


def test_more_bad_records_than_allowed_end_the_run() -> None:
    with (
        batches([PatternSource("a", 10, bad=(1, 4, 8))], skipping(2)) as stream,
        pytest.raises(RecordError, match=r"^3 different .* max_bad_records=2; .* a: record \d"),
    ):
        list(itertools.islice(stream, 20))


def test_a_source_of_nothing_but_bad_records_ends_the_run() -> None:
    source = PatternSource("a", 3, bad=(0, 1, 2))
    with (
        batches([source], skipping(5)) as stream,
        pytest.raises(RecordError, match=r"none of 100 records tried .* 'image' cannot be decoded"),
    ):
        next(stream)
