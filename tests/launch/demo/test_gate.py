"""Files, addresses and routes asked for past the page: none but the page's own are reached."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.launch.demo.server_process import ROOT, Server

FILE = {"_type": "gradio.FileData"}

pytestmark = pytest.mark.usefixtures("_unharmed")


@pytest.fixture(scope="module")
def event(server: Server) -> dict[str, Any]:
    return server.event("compose", "click")


@pytest.fixture
def secret(server: Server) -> Path:
    return server.log


@pytest.mark.parametrize(
    ("button", "field"),
    [("draw", "palette"), ("draw", "graph"), ("sample", "picked-0"), ("sample", "image-steps")],
)
def test_files_of_this_machine_are_not_read_to_draw(server, secret, button, field):
    event = server.event(button, "click")
    for path in ("/etc/passwd", str(secret), f"{server.workdir}/../log.txt", "", 7):
        sent = {"path": path, "meta": FILE}
        answer = server.call(event, server.values(event, **{field: sent}))
        assert answer.get("status") == 400, (path, answer)
        assert "was not uploaded on this page" in answer["text"]


@pytest.mark.parametrize("field", ["depth-0", "prompt", "seed", "sampler"])
def test_files_of_this_machine_are_not_read(server, event, secret, field):
    inside = server.workdir / "requests"
    for path in (
        *("/etc/passwd", str(secret), f"{server.workdir}/../log.txt", "../log.txt"),
        *(
            f"{inside}/../../log.txt",
            "",
            "\0",
            "a" * 5000,
            "file:///etc/passwd",
            7,
            ["/etc/passwd"],
        ),
        "~/.bashrc",
    ):
        for sent in (
            {"path": path, "meta": FILE},
            [{"path": path, "meta": FILE}],
            {"image": {"path": path, "meta": FILE, "url": None}},
        ):
            answer = server.call(event, server.values(event, **{field: sent}))
            assert answer.get("status") == 400, (path, answer)
            assert "was not uploaded on this page" in answer["text"]


def test_a_link_in_the_folder_leads_nowhere(server, event, secret):
    link = server.workdir / "link.png"
    link.symlink_to(secret)
    try:
        sent = {"path": str(link), "meta": FILE}
        answer = server.call(event, server.values(event, **{"depth-0": sent}))
        assert answer.get("status") == 400
        assert server.client.get(f"/gradio_api/file={link}").status_code == 403
    finally:
        link.unlink()


class _Listener(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def stranger():
    """Returns the address of a server that nothing may ask, and what it was asked."""
    handler = type("Handler", (_Listener,), {"asked": []})
    listener = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}/x.png", handler.asked
    listener.shutdown()
    listener.server_close()


@pytest.mark.parametrize("field", ["depth-0", "prompt", "num-steps"])
def test_addresses_are_not_fetched(server, event, stranger, field):
    address, asked = stranger
    inside = str(server.workdir / "a.png")
    for url in (address, "https://example.com/a.png", "//example.com/a.png", "data:image/png,a"):
        for sent in (
            {"path": url, "meta": FILE},
            {"path": inside, "url": url, "meta": FILE},
            {"path": None, "url": url, "meta": FILE},
            {"url": url, "meta": FILE},
        ):
            answer = server.call(event, server.values(event, **{field: sent}))
            assert answer.get("status") == 400, (sent, answer)
    for route in ("file=", "proxy=", "file/"):
        answer = server.client.get(f"/gradio_api/{route}{address}")
        assert answer.status_code in (403, 404)
        assert answer.json()["detail"] in ("no such file", "not found")
    assert asked == []


def test_only_files_of_the_folder_are_served(server, secret):
    for path in (
        *(secret, "/etc/passwd", f"{server.workdir}/../log.txt", "..%2f..%2fetc%2fpasswd"),
        *(f"{server.workdir}/%2e%2e/log.txt", ROOT / "setup.py", "setup.py"),
    ):
        answer = server.client.get(f"/gradio_api/file={path}")
        assert answer.status_code == 403, path
    example = server.workdir / "examples" / "0" / "image.png"
    assert server.client.get(f"/gradio_api/file={example}").content == example.read_bytes()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/vibe-edit/"),
        ("POST", "/gradio_api/vibe-code/"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/run/on_compose"),
        ("POST", "/gradio_api/api/on_compose"),
        ("POST", "/gradio_api/call/on_compose"),
        ("GET", "/gradio_api/deep_link"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/monitoring"),
        ("GET", "/docs"),
        ("PUT", "/gradio_api/upload"),
        ("DELETE", "/"),
    ],
)
def test_no_other_route_is_there(server, method, path):
    assert server.client.request(method, path).json() == {"detail": "not found"}


def test_pages_of_other_names_are_refused(server):
    for host in ("evil.example", "evil.example:80", ""):
        assert server.client.get("/", headers={"host": host}).status_code == 403
    port = server.address.rsplit(":", 1)[1]
    assert server.client.get("/", headers={"host": f"localhost:{port}"}).status_code == 200
    policy = server.client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


def _sent(server: Server, path: str, headers: dict[str, str]) -> int:
    """Returns the status of a small upload, or of an event that is none."""
    if path.endswith("upload"):
        files = {"files": ("a.png", b"a")}
        return server.client.post(path, files=files, headers=headers).status_code
    return server.client.post(path, content=b"{}", headers=headers).status_code


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join"])
def test_other_pages_send_nothing(server, path):
    """A form of any page is sent without asking, though its page never sees the answer."""
    port = int(server.address.rsplit(":", 1)[1])
    before = sorted(server.workdir.iterdir())
    for headers in (
        *({"origin": "https://evil.example"}, {"origin": "null"}, {"origin": ""}),
        *({"origin": f"http://evil.example:{port}"}, {"origin": f"{server.address}.evil.example"}),
        # Another port of this machine, and another scheme.
        *({"origin": f"http://127.0.0.1:{port - 1}"}, {"origin": f"https://127.0.0.1:{port}"}),
        *({"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}),
        {"origin": server.address, "sec-fetch-site": "cross-site"},
    ):
        assert _sent(server, path, headers) == 403, headers
    assert sorted(server.workdir.iterdir()) == before


def test_the_page_and_programs_may_send(server):
    port = server.address.rsplit(":", 1)[1]
    own = f"http://localhost:{port}"
    for headers in (
        {},
        {"origin": server.address, "sec-fetch-site": "same-origin"},
        {"origin": own, "host": f"localhost:{port}"},
        # Through a tunnel from another port.
        {"origin": "http://localhost:8000", "host": "localhost:8000"},
    ):
        assert _sent(server, "/gradio_api/upload", headers) == 200, headers
        # Let in, and found to name no event.
        assert _sent(server, "/gradio_api/queue/join", headers) == 422, headers


@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"[" * 10**5, b'{"data": ' + b"[" * 50 + b"]" * 50 + b"}", b"1" * 2**20],
    ids=["nothing", "text", "open", "deep", "large"],
)
def test_bodies_that_are_no_requests(server, body):
    answer = server.client.post("/gradio_api/queue/join", content=body)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("the request is")
