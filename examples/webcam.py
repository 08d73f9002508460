"""Names what moves in front of a webcam until Ctrl-C: `python examples/webcam.py [/dev/video0]`."""

import sys

import av

import gmos_deploy as gmos


def main(device: str = "/dev/video0", kind: str | None = "v4l2") -> None:
    """Answer the camera's frames; `kind` is FFmpeg's name of such devices (macOS: avfoundation)."""
    with av.open(device, format=kind) as camera, gmos.load() as model:
        picture = camera.streams.video[0]
        rate = float(picture.average_rate or 30)
        with model.session((picture.height, picture.width), fps=rate) as session:
            for frame in camera.decode(picture):
                for answer in session.push(frame.to_ndarray(format="rgb24"), frame.time):
                    moving = [f"{one.id} at {one.box}" for one in answer.objects if one.moving]
                    print(f"{answer.time_s:.2f} s: {', '.join(moving) or 'nothing moves'}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2])
