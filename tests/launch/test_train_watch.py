"""What a run tells while it runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from configs import cnc
from launch.train_request import parse_request
from launch.train_watch import Watch
from sd_jax.training.loop import StepReport
from sd_jax.training.programs import Program
from sd_jax.training.run_folder import RunFolder
from tests.launch.tiny_training import SETTINGS, metrics


@pytest.fixture
def watch(tmp_path):
    config = cnc.get_config("stage=local,scale=scenes")
    with config.unlocked():
        config.update({**SETTINGS, "init": str(tmp_path), "log_every": 4})
    request, problems = parse_request(config, str(tmp_path))
    assert not problems
    watch = Watch(request, RunFolder(tmp_path), num_steps=4, first_step=0)
    yield watch
    watch.close()


def report(step: int, seconds: float, loss: float = 0.5) -> StepReport:
    values = {"loss": loss, "grad_norm": 1.0, "skipped": 0.0, "skipped_in_all": 0.0}
    return StepReport(step, values, seconds, 0.0, ())


def test_programs_that_do_not_fit_are_refused(watch, capsys):
    program = Program(jax.jit(lambda x: x @ x).lower(jnp.ones((64, 64))).compile(), seconds=3.0)
    watch.preflight("a step", program, 2e12)
    said = capsys.readouterr().err
    assert "a step: ready in 3 s; it takes 2 TFLOP" in said
    assert "this device: fits" in said
    watch._limit = 1000
    with pytest.raises(ValueError, match=r"evaluation needs 32\.0 KiB.*which has 1000 B"):
        watch.preflight("evaluation", program)


def test_the_speed_leaves_the_first_step_out(watch, tmp_path, capsys):
    watch.report(report(1, 50.0), 1e12)
    watch.report(report(2, 1.0), 1e12)
    watch.report(report(3, 2.0), 4e12)
    watch.report(report(4, 3.0, loss=1.5), 1e12)
    watch.flush()
    assert metrics(tmp_path, "speed/seconds_per_step") == {4: 2.0}
    assert metrics(tmp_path, "speed/images_per_second") == {4: 4 / 2.0}
    assert metrics(tmp_path, "speed/tflops_per_device") == {4: 1.0}
    assert metrics(tmp_path, "train/loss_mean") == {4: 0.75}
    line = "step 4/4 (100.0%), loss 0.75000, grad norm 1, 2 images/s"
    assert line in capsys.readouterr().err
