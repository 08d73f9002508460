"""Addresses are told from paths, and shown without their secrets."""

from __future__ import annotations

import pytest

from gmos_deploy.runtime.video.addresses import scheme_of, shown_address


@pytest.mark.parametrize(
    ("given", "scheme"),
    [
        ("rtsp://camera/1", "rtsp"),
        ("RTSP://camera/1", "rtsp"),
        ("http://host/clip.mp4", "http"),
        ("clip.mp4", None),
        ("folder/a:b", None),
        ("0", None),
        ("gst:videotestsrc ! appsink", None),
        ("1a://x", None),
    ],
)
def test_schemes(given: str, scheme: str | None) -> None:
    """Letters before ://, whatever their size."""
    assert scheme_of(given) == scheme


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("rtsp://camera/stream1", "rtsp://camera/stream1"),
        ("rtsp://camera:8554/a/b", "rtsp://camera:8554/a/b"),
        ("rtsp://admin:hunter2@camera:554/1", "rtsp://camera:554/1"),
        ("rtsp://admin@camera/1", "rtsp://camera/1"),
        ("rtsp://admin:p@ss@camera/1", "rtsp://camera/1"),
        ("rtsp://admin:hunter2/@camera/1", "rtsp://(an address that cannot be read)"),
        ("rtsp://admin:hunter2?@camera/1", "rtsp://(an address that cannot be read)"),
        ("rtsp://admin:hunter2#@camera/1", "rtsp://(an address that cannot be read)"),
        ("http://host/live?token=hunter2", "http://host/live?…"),
        ("http://host/live#hunter2", "http://host/live"),
        ("http://[::1]:8000/a", "http://[::1]:8000/a"),
        ("http://u:hunter2@[::1]:8000/a", "http://[::1]:8000/a"),
        ("http://u:hunter2@[::1/a", "http://(an address that cannot be read)"),
        ("http://host/@alice/live", "http://host/@alice/live"),
        ("clip@home.mp4", "clip@home.mp4"),
    ],
)
def test_no_secret_is_shown(given: str, shown: str) -> None:
    """Neither users nor passwords nor queries, however they are written."""
    assert shown_address(given) == shown
    assert "hunter2" not in shown_address(given)
