"""The one exception that a user is meant to read, and how text that others wrote is shown."""

CONTROLS = (
    *(code for code in range(0x20) if chr(code) not in "\t\n"),
    *range(0x7F, 0xA0),
    # What turns the direction of writing, or begins a line.
    *(0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)),
)
ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in CONTROLS}


def printable(text: str) -> str:
    """A text for a terminal: what would move its cursor, colour it or turn its writing round is shown as an escape.

    Names of files, keys of checkpoints and fields of bundles are written by others.
    """
    return text.translate(ESCAPES)


def as_cell(text: str) -> str:
    """A name for a table in CSV: a spreadsheet would compute one that begins like a formula, so it gets a quote."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


class GmosError(Exception):
    """Something the user gave cannot be used.

    The message says what was given, what was expected and what to do next, in one line.
    Only `cli.py` catches it (one line on stderr, exit status 2).
    """


class MachineError(GmosError):
    """This machine failed, not what was given: a disk that is full, a device that is lost, networks that do not load.

    Whatever comes next would fail as well, so a batch ends with it; unless `restarts`, which says that a new process
    may do better.
    """

    restarts = False


class LostDeviceError(MachineError):
    """A device that no later call of this process can use."""

    restarts = True
