"""What the server answers at all: the few routes that the page needs, from this machine's browser.

Gradio has more routes than that: ones that fetch URLs for a visitor, run code, edit the program.
And of the fields it takes, any may be sent as a description of a file with a URL in it, which it
would fetch. So what is not known here does not get to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any

from launch.demo.folders import Folders

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

_GET = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon(/\d+)?"
    r"|/(assets|static|svelte)/[^\\]*"
    r"|/gradio_api/(info/?|theme\.css|app_id/?|user/?|login_check/?|startup-events)"
    r"|/gradio_api/(queue/data|upload_progress|heartbeat/[\w-]+)"
)
_FILE = re.compile(r"/gradio_api/file=(.+)", re.DOTALL)
_POST = ("/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/cancel", "/gradio_api/reset")
_OWN_URL = re.compile(r"(http://(127\.0\.0\.1|localhost)(:\d+)?)?/gradio_api/file=.*", re.DOTALL)
_JSON_BYTES = 2**18
_FORM_BYTES = 2**14
_DEPTH = 20
_HOSTS = ("127.0.0.1", "localhost")
# A page of another port of this machine is of the same site.
_OTHER_SITES = (b"cross-site", b"same-site")
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
        b"font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
        b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Gate:
    """An ASGI application around another, which sees only what is let through.

    Args:
      app: the other.
      folders: in which all files lie that may be sent or read.
      max_upload_bytes: of one upload.
    """

    def __init__(self, app: Any, folders: Folders, max_upload_bytes: int) -> None:
        self._app, self._folders = app, folders
        self._max_upload = max_upload_bytes + _FORM_BYTES

    async def __call__(self, scope: Any, receive: _Receive, send: _Send) -> None:
        """Answers a request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})

        async def send_with_headers(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        headers = dict(scope["headers"])
        status, reason = self._refusal(scope, headers)
        if status:
            return await _answer(send_with_headers, status, reason)
        if scope["path"] == "/gradio_api/upload":
            self._folders.prune()
        elif scope["method"] == "POST":
            body = await _read(receive, _JSON_BYTES)
            reason = "the request is too large" if body is None else self._body_problem(body)
            if reason or body is None:
                return await _answer(send_with_headers, 400, reason)
            receive = _replay(body, receive)
        return await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Any, headers: dict[bytes, bytes]) -> tuple[int, str]:
        """Returns the status and the reason of a refusal; (0, "") to go on."""
        host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0]
        if host not in _HOSTS:
            # Another name that leads here is a web page that tries to speak through the browser.
            return 403, "open the page as 127.0.0.1 or localhost"
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD"):
            file = _FILE.fullmatch(path)
            if file is not None:
                # Addresses too: they lie in no folder.
                return (0, "") if self._folders.holds(file[1]) else (403, "no such file")
            return (0, "") if _GET.fullmatch(path) else (404, "not found")
        if method != "POST" or path not in _POST:
            return 404, "not found"
        if _is_of_another_page(headers):
            # Forms and uploads are sent without asking; that the answer is kept from the page
            # that sent them does not undo what they did.
            return 403, "only this page may send anything here"
        if path == "/gradio_api/upload":
            length = headers.get(b"content-length", b"")
            if not length.isdigit():
                return 411, "the length of an upload must be told"
            if int(length) > self._max_upload:
                return (
                    413,
                    f"the file is too large, expected at most {self._max_upload / 1e6:.0f} MB",
                )
        return 0, ""

    def _body_problem(self, body: bytes) -> str:
        """Returns why the values of an event are not let through."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            return "the request is no JSON"
        try:
            for value in _walk(content, _DEPTH):
                if not _names_no_stranger(value, self._folders):
                    return "a file was not uploaded on this page"
        except RecursionError:
            return "the request is nested too deeply"
        return ""


def _is_of_another_page(headers: Mapping[bytes, bytes]) -> bool:
    """Returns whether a browser says that another page than this one sent a request.

    Programs say nothing of it. The host has been checked, so that it is this page's own; its port
    is the one that the browser asked, perhaps that of a tunnel.
    """
    if headers.get(b"sec-fetch-site") in _OTHER_SITES:
        return True
    origin = headers.get(b"origin")
    return origin is not None and origin != b"http://" + headers[b"host"]


def _names_no_stranger(value: dict[str, Any], folders: Folders) -> bool:
    """Returns whether an object describes no file, or one that lies in the folder."""
    path, url = value.get("path"), value.get("url")
    if path is None:
        return url is None
    if not isinstance(path, str) or not folders.holds(path):
        return False
    # The page sends the address under which it showed the file.
    return url is None or (isinstance(url, str) and _OWN_URL.fullmatch(url) is not None)


def _walk(content: Any, depth: int) -> Iterator[dict[str, Any]]:
    """Gives every object of a JSON text."""
    if depth == 0:
        raise RecursionError
    if isinstance(content, dict):
        yield content
        content = list(content.values())
    if isinstance(content, list):
        for item in content:
            yield from _walk(item, depth - 1)


async def _read(receive: _Receive, most: int) -> bytes | None:
    """Returns the body of a request, or None if it is larger."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body"):
            return body


def _replay(body: bytes, receive: _Receive) -> _Receive:
    """Returns a function that gives a body that has been read, then what follows."""
    rest = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> _Message:
        return rest.pop() if rest else await receive()

    return replayed


async def _answer(send: _Send, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
