"""Runs the GStreamer example on a fake model: `gstreamer_driver.py EXAMPLES WORD…`, in a process of its own."""

import sys

from fake_model import example

import gmos_deploy as gmos

if __name__ == "__main__":
    # Debian's PyGObject is of the system's Python; it is last, so that nothing else comes from there.
    sys.path.append("/usr/lib/python3/dist-packages")
    try:
        example(sys.argv[1], "gstreamer_appsink").main(sys.argv[2:])
    except gmos.GmosError as error:
        raise SystemExit(str(error)) from error
