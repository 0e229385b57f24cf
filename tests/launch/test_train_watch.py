"""What a run tells while it runs."""

from __future__ import annotations

import jax
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
    watch.preflight(Program(jax.jit(lambda: 0.0).lower().compile(), seconds=3.0), flops=2e12)
    yield watch
    watch.close()


def report(step: int, seconds: float, loss: float = 0.5) -> StepReport:
    values = {"loss": loss, "grad_norm": 1.0, "skipped": 0.0, "skipped_in_all": 0.0}
    return StepReport(step, values, seconds, 0.0, ())


def test_the_speed_is_that_of_steps_that_compiled_nothing(watch, tmp_path, capsys):
    watch.report(report(1, 50.0))
    watch.report(report(2, 2.0))
    watch.report(report(3, 70.0), compiled=True)
    watch.report(report(4, 2.0, loss=1.5))
    watch.flush()
    assert metrics(tmp_path, "speed/seconds_per_step") == {4: 2.0}
    assert metrics(tmp_path, "speed/images_per_second") == {4: 4 / 2.0}
    assert metrics(tmp_path, "train/loss_mean") == {4: 0.75}
    line = "step 4/4 (100.0%), loss 0.75000, grad norm 1, 2 images/s"
    assert line in capsys.readouterr().err
