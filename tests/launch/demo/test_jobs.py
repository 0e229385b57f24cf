"""The line of requests: one at a time, refusals, cancelling, and what becomes of failures."""

from __future__ import annotations

import threading
import time
import warnings
from pathlib import Path

import pytest

from launch.demo import jobs as module
from launch.demo.jobs import Busy, Job, Jobs
from launch.demo.status import status_of, status_of_end
from launch.progress import StepBar

PATIENCE_S = 10.0


class Work:
    """Begins, tells of steps, and ends when it is let go."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self, folder: Path) -> str:
        with StepBar(10, "seed 3") as bar:
            bar.update(4)
            self.began.set()
            assert self.may_end.wait(PATIENCE_S)
            bar.update(6)
        return "result"


@pytest.fixture
def folders(tmp_path):
    made = []

    def make() -> Path:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(folder)
        return folder

    make.made = made
    return make


@pytest.fixture
def line(folders):
    return Jobs(2, folders)


def end(job: Job) -> Job:
    limit = time.monotonic() + PATIENCE_S
    while not job.is_over:
        assert time.monotonic() < limit
        time.sleep(0.01)
    return job


def test_one_works_and_the_others_wait_in_order(line, folders):
    first, second = Work(), Work()
    jobs = [line.submit("a", first), line.submit("b", second)]
    assert first.began.wait(PATIENCE_S)
    assert jobs[1].state == "waiting"
    assert line.ahead_of(jobs[1]) == 1
    assert "Waiting for 1 other request" in status_of(jobs[1], line)
    assert "seed 3: step 4 of 10" in status_of(jobs[0], line)
    assert "width: 40%" in status_of(jobs[0], line)
    assert not second.began.wait(0.05)
    assert len(folders.made) == 1
    first.may_end.set()
    assert second.began.wait(PATIENCE_S)
    second.may_end.set()
    assert [end(job).result for job in jobs] == ["result", "result"]
    assert [job.folder for job in jobs] == folders.made
    assert "Done in" in status_of_end(jobs[0], "Seed 3.")


def test_a_second_request_and_too_many_are_refused(line, folders):
    work = Work()
    line.submit("a", work)
    assert work.began.wait(PATIENCE_S)
    with pytest.raises(Busy, match="Your last request is still at work"):
        line.submit("a", work)
    for session in ("b", "c"):
        line.submit(session, work)
    with pytest.raises(Busy, match="Your last request"):
        line.submit("c", work)
    with pytest.raises(Busy, match="2 requests wait already"):
        line.submit("d", work)
    assert len(folders.made) == 1
    work.may_end.set()


def test_who_waits_is_cancelled_at_once_and_who_works_at_the_next_step(line, folders):
    first, second = Work(), Work()
    working, waiting = line.submit("a", first), line.submit("b", second)
    assert first.began.wait(PATIENCE_S)
    assert line.cancel("b")
    assert waiting.state == "cancelled"
    assert line.cancel("a")
    assert "Cancelling" in status_of(working, line)
    first.may_end.set()
    assert end(working).state == "cancelled"
    assert working.result is None
    assert not second.began.is_set()
    assert not line.cancel("a")
    again = Work()
    again.may_end.set()
    assert end(line.submit("a", again)).state == "done"


def test_what_nobody_waits_for_ends(line, monkeypatch):
    first, second = Work(), Work()
    working, waiting = line.submit("a", first), line.submit("b", second)
    assert first.began.wait(PATIENCE_S)
    assert not waiting.is_over
    monkeypatch.setattr(module, "_ABANDONED_S", 0.0)
    first.may_end.set()
    assert end(working).state == "cancelled"
    assert end(waiting).state == "cancelled"
    assert not second.began.is_set()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("things:\n- one <b>\n- two"), "<li>one &lt;b&gt;</li><li>two</li>"),
        (MemoryError(), "There is not enough memory"),
        (KeyError("inner"), "The program failed (KeyError); the terminal"),
    ],
)
def test_a_failure_is_told_and_the_next_one_works(line, error, expected, capsys):
    def fail(folder: Path) -> None:
        raise error

    job = end(line.submit("a", fail))
    assert job.state == "failed"
    assert expected in status_of_end(job, "")
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, KeyError)
    work = Work()
    work.may_end.set()
    assert end(line.submit("a", work)).state == "done"


def test_warnings_become_notes(line):
    def doubt(folder: Path) -> None:
        for _ in range(2):
            warnings.warn("the prompt is <empty>", stacklevel=1)
            warnings.warn("not for the page", DeprecationWarning, stacklevel=1)

    job = end(line.submit("a", doubt))
    assert job.notes == ("the prompt is <empty>",)
    assert "<li>the prompt is &lt;empty&gt;</li>" in status_of_end(job, "")
