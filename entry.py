"""The entry points of all commands: small, so that next to nothing runs before signals are answered."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

DOCTOR = "gmos-doctor"


def hold_streams() -> None:
    """Open those of standard input, output and error that are closed, to nothing.

    Else the next file that is opened gets their number, and what a library prints goes into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # It gets the least number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def entry_point(program: str, module: str, *added: str) -> Callable[[], NoReturn]:
    """What starts a command.

    Args:
        program: what it is called.
        module: of `commands`, which has a `MODULE_command`; imported when it is called.
        added: modules whose commands are sub-commands of it.
    """

    def entry() -> NoReturn:
        hold_streams()
        try:
            from .interruption import answer_signals  # noqa: PLC0415 - within the guard

            answer_signals(program, keeps_results=program != DOCTOR)
        except KeyboardInterrupt:
            sys.stderr.write(f"{program}: interrupted\n")
            # 128 and SIGINT.
            os._exit(130)
        from importlib import import_module  # noqa: PLC0415 - signals are answered by now

        from .cli import start  # noqa: PLC0415 - the same

        def command_of(name: str) -> Any:  # noqa: ANN401 - click's
            return getattr(import_module(f".commands.{name}", __package__), f"{name}_command")

        command = command_of(module)
        for name in added:
            command.add_command(command_of(name))
        start(command, program)

    return entry


run = entry_point("gmos-run", "run")
export = entry_point("gmos-export", "export", "calibrate", "tune")
evaluate = entry_point("gmos-eval", "evaluate")
parity = entry_point("gmos-parity", "parity")
profile = entry_point("gmos-profile", "profile")
report = entry_point("gmos-report", "report")
doctor = entry_point(DOCTOR, "doctor")
