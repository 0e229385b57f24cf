"""The run's record: whole lines, each step once, the same after a resume as without a stop."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from sd_jax.training.dashboards import TensorBoard
from sd_jax.training.metrics_file import JsonLines
from sd_jax.training.writers import Writer, Writers, make_writers

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def make(workdir: Path, *names: str, resume_step: int = 0, is_main: bool = True) -> Writers:
    config = {"batch_size": 4}
    return make_writers(names, workdir, config=config, resume_step=resume_step, is_main=is_main)


def events(workdir: Path) -> list[Any]:
    """Every event of all files, in the order of TensorBoard."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda path: path.stat().st_ctime):
        data, begin = path.read_bytes(), 0
        while begin < len(data):
            (length,) = struct.unpack_from("<Q", data, begin)
            found.append(event_pb2.Event.FromString(data[begin + 12 : begin + 12 + length]))
            begin += 16 + length
    return found


def test_a_line_holds_step_time_and_the_values(tmp_path: Path) -> None:
    with make(tmp_path, "json") as writers:
        writers.scalars(7, {"loss": jnp.float32(0.5), "train/lr": np.float32(0.25), "count": 3})
        (line,) = lines(tmp_path)  # before anything is closed
    assert abs(line.pop("time") - (tmp_path / "metrics.jsonl").stat().st_mtime) < 60
    assert line == {"step": 7, "loss": 0.5, "train/lr": 0.25, "count": 3.0}


def test_what_is_not_finite_is_strict_json(tmp_path: Path) -> None:
    with make(tmp_path, "json") as writers:
        writers.scalars(1, {"loss": float("nan"), "norm": np.float32("-inf"), "lr": 1.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert line["loss"] is line["norm"] is None
    assert line["nonfinite"] == ["loss", "norm"]
    assert line["lr"] == 1.0


def test_a_resumed_run_writes_each_step_once(tmp_path: Path) -> None:
    with make(tmp_path, "json") as writers:
        for step in range(10):
            writers.scalars(step, {"run": 1})
            writers.images(step, {"sample/0": IMAGE})
    with make(tmp_path, "json", resume_step=6) as writers:
        for step in range(6, 8):
            writers.scalars(step, {"run": 2})
    assert [(line["step"], line["run"]) for line in lines(tmp_path)] == [
        *[(step, 1) for step in range(6)],
        *[(step, 2) for step in (6, 7)],
    ]
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [
        f"{step:08d}" for step in range(6)
    ]


def test_a_fresh_run_takes_away_what_a_run_without_checkpoint_left(tmp_path: Path) -> None:
    for _ in range(2):
        with make(tmp_path, "json") as writers:
            writers.scalars(0, {"loss": 1})
    assert len(lines(tmp_path)) == 1


@pytest.mark.filterwarnings("default")
def test_broken_lines_go_and_the_others_stay(tmp_path: Path) -> None:
    whole = b'{"step": 1, "loss": 2.0}\n'
    torn = b'{"step": 2, "loss": 2.0}'
    (tmp_path / "metrics.jsonl").write_bytes(whole + b"\xff\0\n[]\n" + torn)
    with (
        pytest.warns(UserWarning, match=r"metrics\.jsonl: removed 3 broken lines"),
        make(tmp_path, "json", resume_step=5) as writers,
    ):
        writers.scalars(5, {"loss": 1.0})
    data = (tmp_path / "metrics.jsonl").read_bytes()
    assert data.startswith(whole)
    assert [line["step"] for line in lines(tmp_path)] == [1, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_full_disk_leaves_whole_lines_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JsonLines(tmp_path)
    writer.scalars(0, {"loss": 1.0})
    file = writer._file

    class Full:
        """Takes ten bytes of a line, as a disk with ten bytes left does."""

        def __init__(self) -> None:
            self.left = 10

        def write(self, data: bytes) -> int:
            if not self.left:
                raise OSError(28, "No space left on device")
            taken, self.left = min(self.left, len(data)), 0
            return file.write(data[:taken])

        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

    monkeypatch.setattr(writer, "_file", Full())
    with pytest.raises(OSError, match=r"No space left on device.*free space.*metrics\.jsonl") as e:
        writer.scalars(1, {"loss": 1.0})
    assert e.value.errno == 28
    assert [line["step"] for line in lines(tmp_path)] == [0]
    monkeypatch.setattr(writer, "_file", file)
    writer.scalars(2, {"loss": 1.0})
    writer.close()
    assert [line["step"] for line in lines(tmp_path)] == [0, 2]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OSError, match=r"cannot write the run's record.*metrics\.jsonl"):
        make(tmp_path, "json")


def test_images_and_texts_are_files(tmp_path: Path) -> None:
    with make(tmp_path, "json") as writers:
        writers.images(20, {"sample/0": IMAGE, "mask": IMAGE[:2]})
        writers.text("parameters", "old")
        writers.text("parameters", "unet 12 µ\n")
    folder = tmp_path / "images" / "00000020"
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "sample" / "0.png")), IMAGE)
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "mask.png")), IMAGE[:2])
    assert (tmp_path / "parameters.txt").read_text(encoding="utf-8") == "unet 12 µ\n"


def test_tensorboard_has_all_kinds_as_soon_as_it_is_flushed(tmp_path: Path) -> None:
    with make(tmp_path, "tensorboard") as writers:
        writers.scalars(3, {"train/loss": 0.5, "broken": float("nan")})
        writers.images(3, {"sample/0": IMAGE})
        writers.text("parameters", "unet   12\nvae     3")
        writers.flush()
        found = [(event.step, value) for event in events(tmp_path) for value in event.summary.value]
    by_tag = {value.tag: (step, value) for step, value in found}
    step, loss = by_tag["train/loss"]
    assert (step, loss.simple_value) == (3, 0.5)
    assert np.isnan(by_tag["broken"][1].simple_value)
    step, image = by_tag["sample/0"]
    assert (step, image.image.height, image.image.width) == (3, 4, 6)
    assert b"    unet   12\n    vae     3" in by_tag["parameters/text_summary"][1].tensor.string_val
    assert b'"batch_size": 4' in by_tag["config/text_summary"][1].tensor.string_val[0]


def test_tensorboard_hides_the_steps_that_are_done_again(tmp_path: Path) -> None:
    for first_step in (0, 6):
        with make(tmp_path, "tensorboard", resume_step=first_step) as writers:
            writers.scalars(first_step, {"loss": 1.0})
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    starts = [
        (event.step, event.session_log.status)
        for event in events(tmp_path)
        if event.HasField("session_log")
    ]
    # Also at 0: an earlier start may have written without coming to a checkpoint.
    assert starts == [(step, event_pb2.SessionLog.START) for step in (0, 6)]


def test_a_full_disk_stops_tensorboard_instead_of_hanging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TensorBoard(tmp_path, {})

    def fail(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer._events._py_recordio_writer, "write", fail)
    with pytest.raises(OSError, match=r"No space left.*free space.*tensorboard"):
        writer.scalars(1, {"loss": 1.0})
    writer.close()


class FakeWandB:
    """Records what the module is told."""

    def __init__(self) -> None:
        self.inits: list[dict[str, Any]] = []
        self.metrics: list[tuple[str, dict[str, Any]]] = []
        self.logs: list[dict[str, Any]] = []
        self.finished = 0
        self.Image = lambda image: ("image", image.shape)
        self.Html = lambda text: ("html", text)

    def init(self, **settings: Any) -> SimpleNamespace:
        self.inits.append(settings)
        return SimpleNamespace(
            define_metric=lambda name, **settings: self.metrics.append((name, settings)),
            log=self.logs.append,
            finish=lambda: setattr(self, "finished", self.finished + 1),
        )


def test_wandb_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", module)
    for first_step in (0, 5):
        with make(tmp_path, "wandb", resume_step=first_step) as writers:
            writers.scalars(first_step, {"loss": np.float32(0.5)})
            writers.images(first_step, {"sample": IMAGE})
            writers.text("table", "a < b")
    first, second = module.inits
    assert first["id"] == second["id"] == (tmp_path / "wandb_id.txt").read_text().strip() != ""
    assert first["resume"] == "allow"
    assert first["config"] == {"batch_size": 4}
    assert ("*", {"step_metric": "step"}) in module.metrics
    assert module.logs[:3] == [
        {"step": 0, "loss": 0.5},
        {"step": 0, "sample": ("image", (4, 6, 3))},
        {"table": ("html", "<pre>a &lt; b</pre>")},
    ]
    assert module.logs[3] == {"step": 5, "loss": 0.5}
    assert module.finished == 2


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_package_is_named_with_its_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = {"wandb": "wandb", "tensorboard": "tensorboardX"}[name]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{name}.*pip install {package}"):
        make(tmp_path, "json", name)


def test_unknown_writers_are_named_together(tmp_path: Path) -> None:
    message = r"no writer 'csv'.*no writer 'Json'.*'json' is named twice.*json, tensorboard, wandb"
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "run", "csv", "json", "Json", "json")
    assert not (tmp_path / "run").exists()


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with make(tmp_path / "run", "json", "tensorboard", is_main=False) as writers:
        writers.scalars(1, {"loss": 1.0})
        writers.images(1, {"sample": IMAGE})
        writers.text("table", "text")
        writers.flush()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"a": IMAGE.astype(np.float32)}, r"'a' is float32 \(4, 6, 3\), expected uint8"),
        ({"a": IMAGE[..., 0], "b": IMAGE[:0]}, r"'a' is uint8 \(4, 6\).*'b' is uint8 \(0, 6, 3\)"),
        ({"../a": IMAGE}, r"name '\.\./a'"),
        ({"/a": IMAGE}, r"name '/a'"),
        ({"a/../../b": IMAGE}, r"name 'a/\.\./\.\./b'"),
    ],
)
def test_images_that_cannot_be_written_are_named(
    images: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    with make(tmp_path, "json") as writers, pytest.raises(ValueError, match=message):
        writers.images(1, images)


def test_a_metric_cannot_take_the_name_of_a_key(tmp_path: Path) -> None:
    with make(tmp_path, "json") as writers, pytest.raises(ValueError, match=r"'step'.*'time'"):
        writers.scalars(1, {"time": 1.0, "step": 2.0, "loss": 0.5})


def test_all_writers_are_closed_when_one_fails() -> None:
    closed = []

    class Fake(Writer):
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            if self.name == "first":
                raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Writers([Fake("first"), Fake("second")]).close()
    assert closed == ["first", "second"]
