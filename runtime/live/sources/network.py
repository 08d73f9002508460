"""Network streams by their address: RTSP, RTP, UDP, TCP and HTTP, each with the protocols that it needs."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import av
from av.error import FFmpegError

from ....errors import GmosError
from ...video.addresses import scheme_of, shown_address
from ...video.containers import allowed_formats
from .av_reader import AvReader, reason
from .source import Asked, LiveInput, SourceLostError

UNNAMED = re.compile(r"[^A-Za-z0-9._-]+")
NAME_LIMIT = 80
"""Letters of a stream's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """What an address of a scheme may open.

    `protocols` are FFmpeg's, and nothing else is opened, whatever the stream or a playlist in it says; `formats` those
    beside what a file may hold. `options` are FFmpeg's. `ends`: where no more comes it is the end, as the protocol
    tells ends from losses.
    """

    protocols: str
    formats: tuple[str, ...] = ()
    options: Mapping[str, str]
    ends: bool = False


HTTP_FORMATS = ("hls", "mpjpeg")
"""Beside containers: playlists of segments, whose addresses are held to the same protocols, and cameras' pictures."""

# RTP over TCP where the camera can: a lost packet costs a whole group of pictures.
RTSP = {"rtsp_flags": "prefer_tcp"}

SCHEMES: Mapping[str, Scheme] = {
    "rtsp": Scheme(protocols="rtp,udp,tcp", formats=("rtsp",), options=RTSP),
    "rtsps": Scheme(protocols="rtp,srtp,udp,tcp,tls", formats=("rtsp",), options=RTSP),
    "rtp": Scheme(protocols="rtp,udp", formats=("rtp",), options={}),
    "udp": Scheme(protocols="udp", options={}),
    "tcp": Scheme(protocols="tcp", options={}, ends=True),
    # A server may send to https, and never from it to http.
    "http": Scheme(
        protocols="http,https,httpproxy,tcp,tls,crypto",
        formats=HTTP_FORMATS,
        options={"user_agent": "gmos-deploy"},
        ends=True,
    ),
    "https": Scheme(
        protocols="https,httpproxy,tcp,tls,crypto",
        formats=HTTP_FORMATS,
        options={"user_agent": "gmos-deploy"},
        ends=True,
    ),
}

MAY_BE_FILES = ("http", "https")
"""Schemes of streams and files alike; what has an end is a file."""


class NetworkSource:
    """Streams that have an address."""

    kind = "network stream"

    def takes(self, given: str) -> bool:
        """Every address: those of other schemes are refused here."""
        return scheme_of(given) is not None

    def resolve(self, given: str, asked: Asked) -> LiveInput:
        """See `LiveSource`."""
        scheme, shown = scheme_of(given) or "", shown_address(given)
        if scheme not in SCHEMES:
            raise GmosError(
                f"{shown}: addresses of {scheme}:// are not read; expected one of "
                f"{', '.join(f'{known}://' for known in SCHEMES)}"
            )
        try:
            host = urlsplit(given).hostname
        except ValueError:
            host = None
        if not host:
            raise GmosError(f"{shown} has no host; expected an address as {scheme}://HOST:PORT/PATH")
        return LiveInput(
            kind=self.kind,
            name=stream_name(shown),
            shown=shown,
            open=partial(connect, given, scheme, finite=asked.live),
            # What has an end and is asked for is sent as fast as it is read.
            waits=asked.live and scheme in MAY_BE_FILES,
        )


def stream_name(shown: str) -> str:
    """What results of an address are called: its host and path."""
    _, _, rest = shown.partition("://")
    name = UNNAMED.sub("-", rest.removesuffix("?…")).strip("-.")
    return name[:NAME_LIMIT] or "stream"


def connect(given: str, scheme: str, timeout_s: float, *, finite: bool) -> AvReader:
    """Connect to an address.

    Args:
        given: the address, with what is secret in it.
        scheme: of it.
        timeout_s: to connect and to understand the stream, and for every picture later.
        finite: take what has an end, too.

    Raises:
        SourceLostError: there is no connection.
        GmosError: what it gives is no stream.
    """
    rules, shown = SCHEMES[scheme], shown_address(given)
    formats = ",".join((allowed_formats(), *rules.formats))
    began_s = time.monotonic()
    try:
        container = av.open(
            given,
            "r",
            # FFmpeg would guess from the end of an address; only RTSP and RTP are formats of their own.
            format=scheme if scheme == "rtp" else None,
            timeout=(timeout_s, timeout_s),
            metadata_errors="replace",
            container_options={
                "protocol_whitelist": rules.protocols,
                "format_whitelist": formats,
                **rules.options,
            },
        )
    except FFmpegError as error:
        # RTSP tells that it was interrupted as invalid data.
        late = time.monotonic() - began_s >= timeout_s
        raise SourceLostError(f"no answer within {timeout_s:g} s" if late else reason(error)) from error
    length_s = (container.duration or 0) / av.time_base
    # Of a playlist the size is not that of what it names.
    sized = container.format.name not in HTTP_FORMATS and container.size > 0
    if scheme in MAY_BE_FILES and not finite and (length_s > 0 or sized):
        container.close()
        about = f"{length_s:.1f} s" if length_s > 0 else "its server states its size"
        raise GmosError(
            f"{shown} has an end ({about}), so it is a file and no stream; download it, for instance with curl -O, and "
            "give the file, or play it as a stream with --live"
        )
    # RTSP tells how long a recording is; a camera has no length.
    ends = rules.ends or (scheme.startswith("rtsp") and length_s > 0)
    return AvReader(shown, container, timeout_s=timeout_s, ends=ends)
