"""The bar whose first report is left out of its speed."""

from __future__ import annotations

import re
import time

import pytest

from launch.progress import StepBar, listening


def test_compiling_is_said_and_is_no_part_of_the_speed(capfd):
    with StepBar(6, "seed 0") as bar:
        time.sleep(0.5)
        for _ in range(3):
            time.sleep(0.01)
            bar.update(2)
    text = capfd.readouterr().err
    assert "seed 0: compiling, then the first steps:   0%" in text
    last = text.split("\r")[-1]
    assert "6/6" in last
    # Four steps in 0.02 s; with the first half second they would make less than 12 in a second.
    assert float(re.search(r"([\d.]+)step/s", last)[1]) > 12


def test_a_bar_without_steps_ends(capfd):
    with StepBar(3, "seed 1"):
        pass
    assert "0/3" in capfd.readouterr().err


def test_a_listener_hears_every_step_and_can_end_the_work():
    heard = []

    def listen(label, done, total):
        heard.append((label, done, total))
        if done == 4:
            raise InterruptedError

    def work():
        with listening(listen), StepBar(6, "seed 0") as bar:
            for _ in range(3):
                bar.update(2)

    with pytest.raises(InterruptedError):
        work()
    assert heard == [("seed 0", 0, 6), ("seed 0", 2, 6), ("seed 0", 4, 6)]
    # Outside of the block nobody listens.
    with StepBar(6, "seed 1") as bar:
        bar.update(2)
    assert len(heard) == 3
