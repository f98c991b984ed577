"""Run the command line: ``python -m elman`` is ``elman``."""

import signal
import sys

from elman.extras import MissingError, needed
from elman.language import say

__all__ = ["run"]


def run() -> int:
    """Run the command that the process was started with, and return its exit code."""
    # While there is nothing to tidy up Ctrl-C ends the process as it ends any other, silently.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with needed(say("the command line"), "train"):
            from elman.cli import main
    except MissingError as error:
        print("elman:", error, file=sys.stderr)
        return 2
    return main()


if __name__ == "__main__":
    sys.exit(run())
