"""What the command lines of both roles share: how a command ends, and who is at the keyboard.

Exit codes: 0 done, 1 refused or failed with one line that says why, 130 interrupted; 2 is the
parser's, for words it does not know.
"""

import gc
import getpass
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

from wardround.privacy.errors import WardroundError

FAILED = 1
INTERRUPTED = 130


def run(app: Callable[[], object]) -> None:
    """Run a command line; a person's mistake ends in one line on standard error, no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without our letters gets a "?"
            stream.reconfigure(errors="replace")
    try:
        app()
    except WardroundError as error:
        _fail(str(error))
    except OSError as error:  # a folder that is not there, a disk that is full
        _fail(f"{error.filename or 'system'}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def load_and_run(module: str) -> None:
    """Import a command line and run its `main`; Ctrl-C meanwhile ends it without a traceback."""
    run(lambda: import_module(module).main())


@contextmanager
def loading() -> Iterator[None]:
    """Import large libraries inside: what they make stays, so no collector looks through it.

    It would do so again and again while they load, and several times when the process ends: a
    third of what it costs to start and end a process with PyTorch and MONAI.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def operator() -> str:
    """Return the account name of the person at the keyboard.

    An account without a name, as in many containers, is called by its number.
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def _fail(message: str) -> None:
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    word = "\x1b[1;31merror:\x1b[0m" if coloured else "error:"
    sys.stderr.write(f"{word} {message}\n")
    sys.exit(FAILED)
