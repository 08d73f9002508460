"""The one exception that a user is meant to read."""


class GmosError(Exception):
    """Something the user gave cannot be used.

    The message says what was given, what was expected and what to do next, in one line.
    Only `cli.py` catches it (one line on stderr, exit status 2).
    """
