"""The entry point of `harborguard-sensor`: runs `commands`, and ends without a traceback where none would help.

Imports as little as it can: Ctrl-C must be quiet also while everything else is still being loaded.
"""

import errno
import importlib
import sys

_OUTPUT_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def main() -> None:
    """Run the command line and leave with its exit status."""
    try:
        try:
            importlib.import_module("sensor.cli.commands").app(prog_name="harborguard-sensor")
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno not in _OUTPUT_LOST:
            raise
        sys.stderr.write(f"error: the output cannot be written: {error.strerror}\n")
        sys.stderr.flush()
        sys.exit(3)
