"""A run that is killed and started again makes the same bytes as one that is left alone."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest

from sd_jax.training.signals import EXIT_STOPPED
from tests.launch.tiny_training import (
    SETTINGS,
    TIMEOUT_S,
    metrics,
    start,
    state_bytes,
    train,
    write_start,
)

PARTS = ("unet", "vae", "text_encoder", "local_fuser")
STEPS = SETTINGS["num_steps"]

# 30 scenes an epoch and 4 a batch, so that steps span the borders of epochs.
CASES = {
    "plain": {},
    "accumulation_and_average": {"accumulation": 2, "ema_decay": 0.9, "optimizer": "adamw8bit"},
}


@pytest.fixture(scope="module")
def start_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "model"
    write_start(folder, PARTS)
    return folder


def settings_of(case: str, start_folder: Path, data: Path) -> dict:
    return {"init": start_folder, "data": data, "eval_data": data, **CASES[case]}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Returns 30 scenes in shards, so that an epoch is short."""
    from configs.prepare import get_config
    from launch.preparing import prepare

    folder = tmp_path_factory.mktemp("shards") / "scenes"
    config = get_config("dataset=scenes")
    with config.unlocked():
        config.update({"output": str(folder), "limit": 30, "num_shards": 2})
    prepare(config)
    return folder


@pytest.fixture(scope="module")
def straight_run(tmp_path_factory, start_folder, shards):
    """Returns case -> its settings and the folder of a run that nobody disturbed."""
    made: dict[str, tuple[dict, Path]] = {}

    def make(case: str) -> tuple[dict, Path]:
        if case not in made:
            settings = settings_of(case, start_folder, shards)
            workdir = tmp_path_factory.mktemp("straight") / "run"
            train(workdir, "local", **settings)
            made[case] = settings, workdir
        return made[case]

    return make


@pytest.fixture(params=list(CASES))
def every(request, straight_run):
    """Returns settings and folder of each case."""
    return straight_run(request.param)


@pytest.fixture
def plain(straight_run):
    """Returns settings and folder of the plain case."""
    return straight_run("plain")


def kill_at_random(workdir: Path, settings: dict, rng: random.Random) -> str:
    """Starts the run and kills it, soon after it makes progress; returns what it was doing."""
    process = start(workdir, "local", **settings)
    assert process.stdout is not None
    # Half of the kills wait for a save to be on its way, the others for some steps.
    in_save, lines = rng.random() < 0.5, rng.randint(1, 6)
    checkpoints, deadline = workdir / "checkpoints", time.monotonic() + TIMEOUT_S
    doing = "ended"
    try:
        for line in process.stdout:
            assert time.monotonic() < deadline
            if not line.startswith("step "):
                continue
            lines -= 1
            saving = list(checkpoints.glob("*tmp*")) if in_save else []
            if saving or lines <= 0:
                time.sleep(rng.random() * 0.05)
                doing = "saving" if list(checkpoints.glob("*tmp*")) else "stepping"
                process.send_signal(signal.SIGKILL)
                break
        process.wait(TIMEOUT_S)
    finally:
        process.kill()
        process.stdout.close()
    return doing


def check_equal(workdir: Path, expected: Path) -> None:
    assert metrics(workdir) == metrics(expected)
    assert list(metrics(workdir)) == list(range(1, STEPS + 1))
    ours, theirs = (state_bytes(folder, STEPS) for folder in (workdir, expected))
    assert ours.keys() == theirs.keys()
    assert [path for path in ours if ours[path] != theirs[path]] == []


def kill_and_check(run, tmp_path, kills: int) -> None:
    settings, expected = run
    rng, workdir = random.Random(7), tmp_path / "run"
    doings = [kill_at_random(workdir, settings, rng) for _ in range(kills)]
    assert "stepping" in doings
    train(workdir, "local", **settings)
    check_equal(workdir, expected)


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_bytes(every, tmp_path):
    kill_and_check(every, tmp_path, 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_runs_killed_twenty_times_go_on_to_the_same_bytes(every, tmp_path):
    kill_and_check(every, tmp_path, 20)


def test_a_polite_signal_saves_at_the_step_and_tells_so(plain, tmp_path):
    settings, expected = plain
    workdir = tmp_path / "run"
    late = {"save_every": 0, "eval_every": 1000, "eval_examples": 2}
    process = start(workdir, "local", **{**settings, **late})
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("step 3/"):
                process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT_S)
    finally:
        process.kill()
        process.stdout.close()
    assert process.returncode == EXIT_STOPPED, "".join(lines)
    assert "the same command goes on" in lines[-1]
    # Whoever sends it may not wait for more than the save.
    assert ["step 0:" in line for line in lines if "evaluation loss" in line] == [True]
    saved = [path.name for path in (workdir / "checkpoints").iterdir()]
    assert len(saved) == 1
    assert max(metrics(workdir)) == int(saved[0])
    assert "goes on from step" in train(workdir, "local", **settings)
    check_equal(workdir, expected)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_loses_no_checkpoint(plain, tmp_path):
    settings, expected = plain
    workdir = tmp_path / "run"
    train(workdir, "local", **{**settings, "num_steps": 5})
    process = start(workdir, "local", **settings)
    # Less than a checkpoint's arrays, more than the log.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 2, output
    (error,) = (line for line in output.splitlines() if line.startswith("error: "))
    assert "step 10 was not saved in" in error
    assert "start again with the same workdir" in error
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["5"]
    assert "goes on from step 5" in train(workdir, "local", **settings)
    check_equal(workdir, expected)


@pytest.mark.parametrize("place", ["/sys/run", "/sys"])
def test_a_folder_that_nobody_may_write_to_is_told(place, start_folder, shards):
    settings = settings_of("plain", start_folder, shards)
    output = train(Path(place), "local", status=2, **settings)
    assert f"error: {place} cannot be written to (" in output
    assert "loading" not in output


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(plain, tmp_path):
    settings, _ = plain
    endless = {**settings, "num_steps": 100_000}
    process = start(tmp_path, "local", **endless)
    assert process.stdout is not None
    try:
        assert any(line.startswith("step 1/") for line in process.stdout)
        before = set(tmp_path.iterdir())
        assert "another run is writing to it" in train(tmp_path, "local", status=2, **endless)
        assert set(tmp_path.iterdir()) == before
        assert process.poll() is None
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_a_finished_run_says_so(plain):
    settings, workdir = plain
    before = metrics(workdir)
    assert f"is at step {STEPS} of {STEPS}: all steps are done already" in train(
        workdir, "local", **settings
    )
    assert metrics(workdir) == before


@pytest.mark.slow
def test_other_settings_are_refused_unless_accepted(plain, tmp_path):
    settings, expected = plain
    workdir = tmp_path / "run"
    shutil.copytree(expected, workdir)
    changed = {**settings, "learning_rate": 3e-3, "seed": 1, "num_steps": STEPS + 2}
    output = train(workdir, "local", status=2, **changed)
    assert "learning_rate was 0.001 and is 0.003; seed was 0 and is 1" in output
    train(workdir, "local", **{**changed, "accept_changes": True})
    assert max(metrics(workdir)) == STEPS + 2


@pytest.mark.slow
def test_what_a_run_may_change(plain, tmp_path):
    """More steps, other devices and other intervals are no other run."""
    settings, expected = plain
    workdir = tmp_path / "run"
    shutil.copytree(expected, workdir)
    train(workdir, "local", **{**settings, "num_steps": STEPS + 1, "save_every": 7}, devices=2)
    assert max(metrics(workdir)) == STEPS + 1
