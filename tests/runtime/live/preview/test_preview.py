"""The preview's page: what it shows, whom it lets in, and that no viewer ever holds up a run."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.frame_result import FrameResult
from gmos_deploy.runtime.live.preview import app, broadcast, server
from gmos_deploy.runtime.live.preview.guard import Guard, check_token, preview_address
from gmos_deploy.runtime.live.preview.server import Preview

Make = Callable[..., FrameResult]

TOKEN = "correct horse"  # noqa: S105 - of the tests

LIMIT_S = 60
"""For a busy machine; what is waited for takes milliseconds."""


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def connection(preview: Preview) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", preview._port, timeout=LIMIT_S)


def ask(
    preview: Preview, path: str = "/", *, method: str = "GET", body: str | None = None, **headers: str
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of an answer."""
    with closing(connection(preview)) as asking:
        asking.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        found = asking.getresponse()
        return found.status, {key.lower(): value for key, value in found.getheaders()}, found.read().decode()


NUMBERS = "Object.fromEntries([...document.querySelectorAll('dl div')].map(d=>[...d.children].map(c=>c.textContent)))"
CLIPPED = "[...document.querySelectorAll('td,th,dd,dt,h1')].filter(n=>n.scrollWidth>n.clientWidth+1).length"


class Viewer:
    """Reads messages as a page does."""

    def __init__(self, preview: Preview, **headers: str) -> None:
        self._connection = connection(preview)
        self._connection.request("GET", "/events", headers=headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200

    def message(self) -> tuple[str, dict[str, Any]]:
        """The next one."""
        kind, data = self._response.readline(), self._response.readline()
        assert self._response.readline() == b"\n"
        assert kind.startswith(b"event: ")
        return kind[7:].decode().strip(), json.loads(data.removeprefix(b"data: "))

    def answer(self, index: int) -> dict[str, Any]:
        """The message on a frame; those before it are passed over."""
        while True:
            kind, told = self.message()
            if kind == "answer" and told["index"] >= index:
                assert told["index"] == index
                return told

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def stuck(preview: Preview) -> socket.socket:
    """A viewer that asks and never reads."""
    asking = socket.socket()
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asking.connect(("127.0.0.1", preview._port))
    asking.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return asking


@pytest.fixture
def preview() -> Iterator[Preview]:
    """Any free port of this machine."""
    with Preview("127.0.0.1", 0, name="front door") as opened:
        yield opened


@pytest.fixture
def closed() -> Iterator[Preview]:
    """One that asks for a token."""
    with Preview("127.0.0.1", 0, TOKEN) as opened:
        yield opened


def test_the_page_in_a_browser(browser: Any, answer: Make, tmp_path: Path) -> None:
    """Picture, numbers and objects, on a desk and on a phone, in light and dark, without a complaint."""
    name = "front door <script>document.title='caught'</script>"
    with Preview("127.0.0.1", 0, name=name) as preview:
        browser.open(preview.url)
        browser.wait("document.getElementById('numbers').children.length>0")
        assert (
            browser.evaluate("document.getElementById('state').textContent") == "waiting for the first answer"
        )
        browser.screenshot(tmp_path / "waiting.png")
        preview.told(
            {"reconnects": 1, "<b>": "<i>told</i>", "dropped": 6, "lost": 1, "answered": 99, "fps": 0.0}
        )
        for index, dropped in ((40, 0), (41, 7)):
            preview.write(answer(index, (360, 640), now_s=time.monotonic(), dropped_before=dropped))
        for label, width in (("desk", 1280), ("phone", 390)):
            browser.open(preview.url, width=width)
            browser.wait("document.getElementById('picture').naturalWidth===640")
            browser.wait("document.getElementById('when').textContent==='frame 41, 4.10 s'")
            browser.screenshot(tmp_path / f"{label}.png")
            rows = browser.evaluate(
                "[...document.querySelectorAll('#objects tr')].map(r=>[...r.cells].map(c=>c.textContent))"
            )
            assert rows == [["3", "1", "moving", "11520", "0.91"], ["12", "2", "still", "7680", "–"]]
            told = browser.evaluate(NUMBERS)
            assert (told["dropped"], told["lost"]) == ("6", "1")
            assert "answered" not in told
            assert "fps" not in told
            assert told["delay ms"] == "250"
            assert told["answers"] == "2"
            assert (told["reconnects"], told["<b>"]) == ("1", "<i>told</i>")
            assert int(told["memory MiB"]) > 10
            root = "document.documentElement"
            assert browser.evaluate(f"{root}.scrollWidth-{root}.clientWidth") <= 0
            assert browser.evaluate(CLIPPED) == 0
            assert browser.evaluate("document.querySelector('h1').textContent") == name
            assert browser.evaluate("document.title") == f"{name} – gmos-run"
            loaded = browser.evaluate("performance.getEntriesByType('resource').map(e=>e.name)")
            assert all(one.startswith((preview.url, "data:")) for one in loaded)
        browser.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}]
        )
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 20, 20)"
        preview.write(answer(42, empty=True, now_s=time.monotonic()))
        browser.wait("!document.getElementById('none').hidden")
        browser.screenshot(tmp_path / "dark.png")
        assert browser.problems == []
    browser.wait("document.getElementById('state').textContent==='the run has ended'")


def test_a_browser_shows_the_token_once(browser: Any, answer: Make, tmp_path: Path) -> None:
    """By the form; then the address has none, and the page works. The next run asks again, by itself."""
    with Preview("127.0.0.1", 0, TOKEN) as closed:
        closed.write(answer(1))
        browser.open(closed.url, width=390)
        browser.wait("document.querySelector('input')")
        browser.screenshot(tmp_path / "door.png")
        browser.evaluate(
            f"document.querySelector('input').value={TOKEN!r};document.querySelector('form').submit()"
        )
        browser.wait("location.search===''&&document.querySelector('#objects tr')")
        browser.open(f"{closed.url}?token=correct%20horse")
        browser.wait("location.search===''&&document.querySelector('#objects tr')")
        # Being asked for it is no error of the page's.
        assert not [one for one in browser.problems if "401" not in one]
    with Preview("127.0.0.1", closed._port, TOKEN):
        browser.wait("document.querySelector('input')")


def test_a_token_is_asked_for(closed: Preview, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    """Nothing is seen without it; a browser gets a cookie of this run, and nothing is logged."""
    caplog.set_level(logging.DEBUG)
    for path in ("/", "/events", "/?token=wrong", "/events?token=correct+hors", "/?token="):
        status, headers, text = ask(closed, path)
        assert status == 401
        assert "set-cookie" not in headers
        assert "picture" not in text
    for method, path, body in (("GET", "/?token=correct+horse", None), ("POST", "/", "token=correct+horse")):
        status, headers, _ = ask(closed, path, method=method, body=body)
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert cookie.endswith("; Path=/; HttpOnly; SameSite=Lax")
        assert "horse" not in cookie
        assert ask(closed, Cookie=cookie.partition(";")[0])[0] == 200
        Viewer(closed, Cookie=cookie.partition(";")[0]).close()
    assert ask(closed, method="POST", body="token=wrong")[0] == 401
    assert ask(closed, method="POST", body="token=" + "x" * 9000)[0] == 401
    assert ask(closed, Cookie="gmos_preview=x; \x00")[0] in {400, 401}
    name = cookie.partition("=")[0]
    assert ask(closed, Cookie=f"{name}=correct horse")[0] == 401
    printed = capfd.readouterr()
    assert "horse" not in caplog.text + printed.out + printed.err


def test_only_this_machine_is_answered_for(preview: Preview) -> None:
    """Some other site's name that resolves to this address is not, so its pages see nothing."""
    for host in (
        "127.0.0.1",
        f"localhost:{preview._port}",
        "[::1]:8080",
        "192.168.1.5",
        socket.gethostname(),
    ):
        assert ask(preview, Host=host)[0] == 200, host
    for host in ("evil.example", "localhost.evil.example:80", "", "127.0.0.1.evil.example", "a@127.0.0.1"):
        assert ask(preview, Host=host)[0] in {400, 421}, host


def test_the_page_is_closed_to_others_content(preview: Preview) -> None:
    """A policy that lets its own style and script run, and nobody frame it or read along."""
    _, headers, text = ask(preview)
    policy = headers["content-security-policy"]
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert text.count(f'nonce="{nonce}"') == 2
    assert nonce not in ask(preview)[1]["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in headers
    assert ask(preview, "/events", Sec_Fetch_Site="cross-site")[0] == 403
    assert ask(preview, "/nothing")[0] == 404
    assert ask(preview, method="POST", path="/events")[0] == 405
    assert ask(preview, method="DELETE")[0] == 405


def test_pictures_are_made_once_and_for_viewers_only(preview: Preview, answer: Make) -> None:
    """None without a viewer; one an answer for all of them."""
    for index in range(5):
        preview.write(answer(index))
    assert preview._broadcast is not None
    viewers = [Viewer(preview) for _ in range(4)]
    told = [viewer.answer(4) for viewer in viewers]
    assert [one["index"] for one in told] == [4] * 4
    until(lambda: preview._broadcast is not None and preview._broadcast.viewers == 4)
    preview.write(answer(5))
    told = [viewer.answer(5) for viewer in viewers]
    assert len({one["picture"] for one in told}) == 1
    assert preview._broadcast.pictures == 2
    for viewer in viewers:
        viewer.close()


def test_a_busy_server_holds_up_nothing(preview: Preview, answer: Make) -> None:
    """While its thread does nothing at all, a thousand answers are taken, and one call waits for it."""
    viewer = Viewer(preview)
    assert preview._loop is not None
    busy, go_on = threading.Event(), threading.Event()

    def block() -> None:
        busy.set()
        go_on.wait(LIMIT_S)

    preview._loop.call_soon_threadsafe(block)
    assert busy.wait(LIMIT_S)
    one = answer(0)
    for _ in range(999):
        preview.write(one)
    preview.write(answer(999))
    waiting = list(preview._loop._ready)  # type: ignore[attr-defined]
    assert sum("Preview._called" in repr(one) for one in waiting) == 1
    go_on.set()
    assert viewer.answer(999)["numbers"]["answers"] == 1000
    viewer.close()


def noisy(answer: Make, index: int) -> FrameResult:
    """A frame that packs badly: hundreds of kilobytes."""
    made = answer(index, (480, 640))
    noise = np.random.default_rng(index).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    return FrameResult(**{name: getattr(made, name) for name in made.__slots__} | {"rgb": noise})


def test_a_viewer_that_never_reads(preview: Preview, answer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others go on; it is cut off in the end, and what waits for it is bounded till then."""
    monkeypatch.setattr(app, "SEND_S", 0.5)
    with stuck(preview):
        until(lambda: preview._broadcast is not None and preview._broadcast.viewers == 1)
        viewer = Viewer(preview)
        index = 0
        assert preview._broadcast is not None
        assert preview._connections is not None
        waiting = 0
        while preview._broadcast.viewers > 1:
            preview.write(noisy(answer, index))
            viewer.answer(index)
            sizes = [one.get_write_buffer_size() for one in list(preview._connections._open.values())]
            waiting = max(waiting, *sizes)
            index += 1
            assert index < 200
        # High water, and the message that passed it.
        assert 0 < waiting < 64 * 1024 + 600_000
        preview.write(answer(index))
        viewer.answer(index)
        until(lambda: preview._connections is not None and len(preview._connections._open) == 1)
        viewer.close()


def test_viewers_are_bounded(preview: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is told so; a place that becomes free can be taken."""
    monkeypatch.setattr(app, "MOST_VIEWERS", 2)
    viewers = [Viewer(preview), Viewer(preview)]
    for viewer in viewers:
        viewer.message()
    status, _, text = ask(preview, "/events")
    assert (status, text) == (503, "There are 2 viewers, and no room for more.\n")
    assert ask(preview)[0] == 200
    viewers.pop().close()
    until(lambda: preview._broadcast is not None and preview._broadcast.viewers == 1)
    Viewer(preview).close()
    viewers[0].close()


def test_connections_are_bounded(preview: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    """In number, and in how long they say nothing: descriptors are the run's."""
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    open_ones = [socket.create_connection(("127.0.0.1", preview._port)) for _ in range(3)]
    until(lambda: preview._connections is not None and len(preview._connections._open) == 3)
    with socket.create_connection(("127.0.0.1", preview._port), timeout=LIMIT_S) as surplus:
        assert gone(surplus)
    for one in open_ones:
        one.close()
    until(lambda: preview._connections is not None and not preview._connections._open)
    monkeypatch.setattr(server, "SPEAK_S", 0.05)
    with socket.create_connection(("127.0.0.1", preview._port), timeout=LIMIT_S) as silent:
        silent.sendall(b"GET / HTTP/1.1\r\nHost: 127.")
        assert gone(silent)


def gone(asking: socket.socket) -> bool:
    try:
        return asking.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_closed_browser_is_nothing_special(preview: Preview, answer: Make) -> None:
    """The run goes on, and the next viewer sees the latest answer."""
    viewer = Viewer(preview)
    preview.write(answer(0))
    viewer.answer(0)
    viewer.close()
    until(lambda: preview._broadcast is not None and preview._broadcast.viewers == 0)
    preview.write(answer(1))
    second = Viewer(preview)
    assert second.answer(1)["objects"][0]["id"] == 3
    second.close()


def test_numbers_come_without_answers(
    preview: Preview, answer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera that has died is seen to have: how long ago its last answer was grows."""
    monkeypatch.setattr(broadcast, "TICK_S", 0.02)
    viewer = Viewer(preview)
    preview.write(answer(0, now_s=time.monotonic(), reset_before=True))
    viewer.answer(0)
    ages = []
    while len(ages) < 4:
        kind, told = viewer.message()
        if kind == "numbers":
            ages.append(told["numbers"]["last answer s ago"])
            assert (told["numbers"]["answers"], told["numbers"]["resets"]) == (1, 1)
    assert ages == sorted(ages)
    assert ages[0] < ages[-1]
    viewer.close()


def test_a_large_picture_is_made_smaller(preview: Preview, answer: Make) -> None:
    """What a page shows needs no more."""
    import base64
    import io

    from PIL import Image

    viewer = Viewer(preview)
    preview.write(answer(0, (900, 1600)))
    with Image.open(io.BytesIO(base64.b64decode(viewer.answer(0)["picture"]))) as picture:
        assert picture.size == (1280, 720)
    viewer.close()


def test_the_end_is_clean(answer: Make) -> None:
    """Viewers are told, stuck ones are cut; the thread and the port are free."""
    with Preview("127.0.0.1", 0) as preview:
        thread = preview._thread
        with stuck(preview):
            viewer = Viewer(preview)
            for index in range(12):
                preview.write(noisy(answer, index))
                viewer.answer(index)
            preview.__exit__(None, None, None)
            kinds = []
            while not kinds or kinds[-1] != "end":
                kinds.append(viewer.message()[0])
            viewer.close()
    assert thread is not None
    assert not thread.is_alive()
    preview.write(answer(99))
    with Preview("127.0.0.1", preview._port) as again:
        assert again.url == preview.url


def test_a_port_in_use_is_one_line() -> None:
    """And any free port is the way out."""
    with Preview("127.0.0.1", 0) as first:
        assert first.url == f"http://127.0.0.1:{first._port}/"
        assert first._port > 0
        with pytest.raises(
            GmosError, match=rf"--preview 127.0.0.1:{first._port}: the port is in use; choose another"
        ):
            Preview("127.0.0.1", first._port).__enter__()


@pytest.mark.parametrize(
    ("host", "message"),
    [("203.0.113.7", "this machine has no such address"), ("no.such.host.invalid", "the host is not known")],
)
def test_an_impossible_host_is_one_line(host: str, message: str) -> None:
    """With what is expected in its place."""
    with pytest.raises(
        GmosError, match=f"--preview {host}:0: {message}.*; expected 127.0.0.1, 0.0.0.0 or an"
    ):
        Preview(host, 0, TOKEN).__enter__()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        ("0", ("127.0.0.1", 0)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),  # noqa: S104 - not bound
        ("[::1]:8080", ("::1", 8080)),
        ("robot.local:65535", ("robot.local", 65535)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """`[HOST:]PORT`."""
    assert preview_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "port", "65536", ":80", "::1:80", "-1", "http://127.0.0.1:80", "a:b:1", "1.2:"]
)
def test_other_addresses_are_refused(text: str) -> None:
    """With an example."""
    with pytest.raises(GmosError, match=r"expected \[HOST:\]PORT, as 8000, 127\.0\.0\.1:8000 or"):
        preview_address(text)


def test_others_need_a_token() -> None:
    """Whoever is reached from outside; a short one protects nothing."""
    for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost"):
        check_token(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.5", "robot.local"):  # noqa: S104 - refused
        with pytest.raises(
            GmosError, match=f"--preview {host}: everybody who reaches this host.*--preview_token"
        ):
            Preview(host, 0)
    for token in ("", "short", "länger als acht", "eight\ncharacters"):
        with pytest.raises(GmosError, match="--preview_token: expected 8 or more printable ASCII characters"):
            check_token("127.0.0.1", token)


def test_a_cookie_is_of_one_run() -> None:
    """Another one's, or that of another port, opens nothing."""
    first, second = Guard("127.0.0.1", 80, TOKEN), Guard("127.0.0.1", 80, TOKEN)
    cookie = first.set_cookie().partition(";")[0]
    assert first.admits({"cookie": cookie})
    assert first.admits({"cookie": f"other=1; {cookie}"})
    assert not second.admits({"cookie": cookie})
    assert not first.admits({})


def test_uvicorn_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says how to get it."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(GmosError, match=r"--preview needs uvicorn .*pip install 'gmos-deploy\[live\]'"):
        Preview("127.0.0.1", 0)
