"""From a click to its end: the part that the two pages share."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import gradio as gr

from launch.demo.folders import Folders
from launch.demo.jobs import Busy, Job, Jobs
from launch.demo.settings import Settings
from launch.demo.status import status_of
from launch.loaded import LoadedModels

_POLL_S = 0.25


@dataclasses.dataclass(frozen=True)
class Page:
    """What both pages have in common.

    Attributes:
      settings: of the whole page.
      folders: for what is written.
      jobs: the line of requests.
      models: in memory.
    """

    settings: Settings
    folders: Folders
    jobs: Jobs
    models: LoadedModels

    def refuse_second(self, session: str) -> None:
        """Checks that a browser has nothing at work.

        Args:
          session: of the browser.

        Raises:
          gradio.Error: it has.
        """
        if self.jobs.of(session) is not None:
            raise _refusal("Your last request is still at work. Wait for it, or cancel it first.")

    async def follow(
        self, session: str, work: Callable[[Path], Any]
    ) -> AsyncIterator[tuple[Job, str, list[Path]]]:
        """Gives a job, what to say of it, and the pictures that are ready, whenever that changes.

        Args:
          session: of the browser.
          work: of the job, in the folder that it gets.

        Raises:
          gradio.Error: the request is refused.
        """
        try:
            job = self.jobs.submit(session, work)
        except Busy as error:
            raise _refusal(str(error)) from None
        told: Any = None
        while not job.is_over:
            job.touch()
            news = status_of(job, self.jobs), _pictures(job)
            if news != told and not job.is_over:
                told = news
                yield job, *news
            await asyncio.sleep(_POLL_S)
        yield job, "", _pictures(job)


def session_of(request: gr.Request) -> str:
    """Returns the name of a browser's visit.

    Args:
      request: of an event.
    """
    return str(request.session_hash)


def read_json(path: Path) -> Any:
    """Returns what a file holds, or None if it is not there yet.

    Args:
      path: of the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _pictures(job: Job) -> list[Path]:
    """Returns the results that are ready, in order."""
    return [] if job.folder is None else sorted((job.folder / "output").glob("[0-9]*.png"))


def _refusal(text: str) -> gr.Error:
    """Returns an error that the page shows above everything, and that changes nothing else."""
    return gr.Error(text, title="Not now", duration=8, print_exception=False)
