"""What the page says of a job, as HTML; everything that came from outside is escaped."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence

from launch.demo.jobs import Job, Jobs

IDLE = '<div class="status idle">Ready.</div>'


def status_of(job: Job, jobs: Jobs) -> str:
    """Returns how far a job is that is not over.

    Args:
      job: that waits or runs.
      jobs: in which it stands.
    """
    if job.asked_to_stop:
        return _box("busy", "Cancelling: ends after the steps under way ...")
    if job.state == "waiting":
        ahead = jobs.ahead_of(job)
        if not ahead:
            return _box("busy", "Starting ...")
        others = "1 other request" if ahead == 1 else f"{ahead} other requests"
        return _box("busy", f"Waiting for {others} ...")
    seconds = time.monotonic() - job.started
    if job.progress is None:
        return _box("busy", f"Reading the files and the model ... {seconds:.0f} s")
    label, done, total = job.progress
    part = f"step {done} of {total}" if done else "compiling, then the first steps"
    bar = f'<div class="bar"><div style="width: {100 * done / max(total, 1):.0f}%"></div></div>'
    return _box("busy", f"{label}: {part} ... {seconds:.0f} s", bar)


def status_of_end(job: Job, said: str, finished: int = 0) -> str:
    """Returns what a job that is over came to.

    Args:
      job: that is over.
      said: of what it made, if it is done.
      finished: pictures that were ready when it was cancelled.
    """
    if job.state == "failed":
        return failure(job.error)
    if job.state == "cancelled":
        kept = f" {finished} of the pictures were ready." if finished else ""
        return _box("idle", f"Cancelled after {job.seconds:.1f} s.{kept}")
    return _box("done", f"Done in {job.seconds:.1f} s. {said}", _list("notes", job.notes))


def failure(text: str) -> str:
    """Returns a message about what cannot be done.

    Args:
      text: a headline, or several lines of which the others are single problems.
    """
    first, *rest = text.split("\n- ")
    return _box("failed", first, _list("problems", rest))


def _list(kind: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    return f'<ul class="{kind}">' + "".join(f"<li>{html.escape(i)}</li>" for i in items) + "</ul>"


def _box(kind: str, text: str, more: str = "") -> str:
    return f'<div class="status {kind}" role="status">{html.escape(text)}{more}</div>'
