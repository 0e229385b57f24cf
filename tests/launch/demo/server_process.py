"""A page in a process of its own, with a tiny model of random weights; and what to send to it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

import cnc_jax.testing
from fgdm_jax.testing import smallest_config
from launch.components import AnyConfig, components_of
from sd_jax.convert.store import save_model
from sd_jax.testing import random_params

ROOT = Path(__file__).parents[3]
_START_S = 480
_EXAMPLE = {
    "depth-0": "foreground_depth",
    "depth-1": "background_depth",
    "exemplar-0": "image",
    "exemplar-1": "background",
    "mask-0": "mask",
}
_SEEN = {
    **dict.fromkeys(("segmentation", "depth", "foreground_depth", "background_depth"), 1),
    "image": 2,
}


def write_checkpoint(folder: Path, num_layers: int = 2, only: tuple[str, ...] = ()) -> Path:
    """Writes the smallest model that is both systems, or some of its components."""
    fgdm, cnc = smallest_config(_SEEN), cnc_jax.testing.smallest_config()
    assert cnc.local_fuser is not None
    assert cnc.global_fuser is not None
    fields = {field.name: getattr(fgdm, field.name) for field in dataclasses.fields(fgdm)}
    config = AnyConfig(
        **{
            **fields,
            "local_fuser": dataclasses.replace(
                cnc.local_fuser, unet=fgdm.unet, num_layers=num_layers
            ),
            "global_fuser": dataclasses.replace(cnc.global_fuser, num_layers=num_layers),
            "image_encoder": cnc.image_encoder,
        }
    )
    params, config = random_params(components_of(), config, 0, only)
    sizes = {name: getattr(config, name) for name in params}
    save_model(params, sizes, folder, config.schedule)
    return folder


@dataclasses.dataclass
class Server:
    """A page that answers."""

    address: str
    workdir: Path
    process: subprocess.Popen[bytes]
    log: Path

    @functools.cached_property
    def client(self) -> httpx.Client:
        """One for all: each reads its certificates, which takes longer than an answer."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        return httpx.Client(
            base_url=self.address, verify=False, trust_env=False, timeout=300, limits=limits
        )

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        return self.client.get("/config").json()

    def event(self, element: str, kind: str) -> dict[str, Any]:
        """Returns the event of an element of the page."""
        config = self.config
        ids = {
            item["id"] for item in config["components"] if item["props"].get("elem_id") == element
        }
        (found,) = (
            item
            for item in config["dependencies"]
            if any(target[0] in ids and target[1] == kind for target in item["targets"])
        )
        return found

    def values(self, event: dict[str, Any], **changes: Any) -> list[Any]:
        """Returns what a page would send, with some fields changed by their names or labels.

        On the page Compose the first example is filled in, so that all runs share one program.
        """
        folder = self.workdir / "examples" / "0"
        for name, file in _EXAMPLE.items():
            changes.setdefault(
                name, {"path": str(folder / f"{file}.png"), "meta": {"_type": "gradio.FileData"}}
            )
        components = {item["id"]: item for item in self.config["components"]}
        sent = []
        for number in event["inputs"]:
            props = components[number]["props"]
            keys = (props.get("elem_id"), (props.get("label") or "").lower().replace(" ", "_"))
            changed = [changes[key] for key in keys if key in changes]
            sent.append(changed[0] if changed else props.get("value"))
        return sent

    def join(self, event: dict[str, Any], data: Any, session: str, **more: Any) -> httpx.Response:
        body = {"data": data, "fn_index": event["id"], "session_hash": session, **more}
        # As browsers do not: NaN and lone surrogates as JSON has them.
        return self.client.post(
            "/gradio_api/queue/join",
            content=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )

    def messages(self, session: str, timeout: float = 300) -> Iterator[dict[str, Any]]:
        with self.client.stream(
            "GET", "/gradio_api/queue/data", params={"session_hash": session}, timeout=timeout
        ) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def call(
        self, event: dict[str, Any], data: Any, *, session: str = "", **more: Any
    ) -> dict[str, Any]:
        """Sends an event to its end; returns the last message about it."""
        session = session or uuid.uuid4().hex
        joined = self.join(event, data, session, **more)
        if joined.status_code != 200:
            return {"status": joined.status_code, "text": joined.text}
        return self.wait(session)

    def wait(self, session: str) -> dict[str, Any]:
        for message in self.messages(session):
            if message["msg"] == "process_completed":
                return message
        raise AssertionError("the server said nothing")

    def upload(self, content: bytes, name: str) -> dict[str, Any]:
        """Uploads a file; returns what a page then sends for it."""
        answer = self.client.post("/gradio_api/upload", files={"files": (name, content)})
        answer.raise_for_status()
        (path,) = answer.json()
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def written_outside(self) -> list[Path]:
        """Returns what the process wrote beside its folder; its own places were empty at first.

        Compiled programs may lie in the home folder, and its log is ours.
        """
        folder = self.workdir.parent
        known = (self.workdir, self.log, folder / "home" / ".cache" / "cnc_fgdm_jax")
        return [
            path
            for path in folder.rglob("*")
            if not path.is_dir() and not any(path.is_relative_to(place) for place in known)
        ]

    def is_alive(self) -> bool:
        page = self.client.get("/")
        return page.status_code == 200 and self.process.poll() is None

    def requests(self) -> list[Path]:
        return sorted((self.workdir / "requests").iterdir())


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start(checkpoint: Path, folder: Path, *arguments: str) -> Server:
    """Starts `python -m launch.demo` in empty folders and waits until it answers."""
    for name in ("current", "home", "temporary"):
        (folder / name).mkdir(parents=True)
    port, workdir, log = free_port(), folder / "work", folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "launch.demo", f"--checkpoint={checkpoint}"),
                *(f"--port={port}", f"--workdir={workdir}", *arguments),
            ],
            cwd=folder / "current",
            env={
                **{name: value for name, value in os.environ.items() if name[:4] != "XDG_"},
                **{"HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary")},
                **{"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(f"http://127.0.0.1:{port}", workdir, process, log)
    limit = time.monotonic() + _START_S
    while time.monotonic() < limit and process.poll() is None:
        if b"open http" in log.read_bytes():
            return server
        time.sleep(0.2)
    stop(server)
    raise AssertionError(f"the page did not start: {log.read_text()}")


def stop(server: Server) -> None:
    server.client.close()
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(10)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait(10)
