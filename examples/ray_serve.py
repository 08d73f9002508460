"""Requests over HTTP, on Ray Serve: a clip in, the tracks of its objects out.

    serve run examples.ray_serve:app          # or: python examples/ray_serve.py
    curl --data-binary @street.mp4 http://127.0.0.1:8000/

The answer is tracks.json of docs/results.md; a clip that cannot be used is status 422 with the reason. Options of the
networks are those of gmos-run, in GMOS_OPTIONS as JSON: GMOS_OPTIONS='{"bundle": "/shared/bundle"}'. One clip at a time
per replica: more replicas, or parts of GPUs, are Serve's to say (num_replicas, ray_actor_options).
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any

# Ray reports usage statistics unless it is told not to.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

MOST_BYTES = 512 << 20
"""Of a clip; more is refused with 413."""


@serve.deployment(ray_actor_options={"num_cpus": 1}, max_ongoing_requests=8)
class Tracks:
    """Holds the networks of a replica."""

    def __init__(self, options: dict[str, Any]) -> None:
        from gmos_deploy.fleet import Segmenter  # noqa: PLC0415 - where the networks are

        self._folder = tempfile.TemporaryDirectory(prefix="gmos-serve-")
        self._place = Path(self._folder.name)
        self._segmenter = Segmenter(
            save_dir=self._place / "out", save_mode="tracks", existing="overwrite", **options
        )
        # Requests wait for their turn here, not in threads.
        self._turn = asyncio.Lock()

    async def __call__(self, request: Request) -> Response:
        """Answer a request whose body is a video file."""
        with tempfile.NamedTemporaryFile(dir=self._place) as clip:
            size = 0
            async for part in request.stream():
                size += len(part)
                if size > MOST_BYTES:
                    return JSONResponse({"error": f"more than {MOST_BYTES >> 20} MiB"}, status_code=413)
                clip.write(part)
            clip.flush()
            async with self._turn:
                return await asyncio.to_thread(self._answer, clip.name)

    def _answer(self, path: str) -> Response:
        answer = self._segmenter({"path": [path], "name": ["clip"]})
        if answer["status"] == ["failed"]:
            return JSONResponse({"error": answer["error"][0].replace(path, "the clip")}, status_code=422)
        # Of GMOS the last one is that through the whole video.
        tracks = Path(json.loads(answer["record"][0])["outputs"][-1]) / "tracks.json"
        return Response(tracks.read_bytes(), media_type="application/json")


app = Tracks.bind(json.loads(os.environ.get("GMOS_OPTIONS", "{}")))

if __name__ == "__main__":
    ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ.get("GMOS_PORT", "8000"))})
    serve.run(app, blocking=True)
