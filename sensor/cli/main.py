"""The entry point of `harborguard-sensor`: runs `commands`, and ends without a traceback where none would help.

Imports as little as it can: Ctrl-C must be quiet also while everything else is still being loaded.
"""

import errno
import importlib
import os
import sys
import traceback

_OUTPUT_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def main() -> None:
    """Run the command line and leave with its exit status."""
    if sys.stdout is None:
        # started with a closed stdout: what is written goes nowhere, and that is no reason to fail
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    try:
        try:
            importlib.import_module("sensor.cli.commands").app(prog_name="harborguard-sensor")
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno not in _OUTPUT_LOST:
            traceback.print_exc()
            sys.exit(3)
        # what is still in the buffer is lost: the interpreter must not try again at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stderr.write(f"error: the output cannot be written: {error.strerror}\n")
        sys.stderr.flush()
        sys.exit(3)
    except Exception:  # noqa: BLE001 - the outermost place: a mistake of ours must not look like exit status 1, "findings"
        traceback.print_exc()
        sys.exit(3)
