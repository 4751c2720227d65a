"""What a process that reads files for another does before the first file."""

import logging
import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess


def start_worker() -> None:
    """Prepare this process: quiet, deaf to Ctrl-C, and ended when its parent ends.

    Log lines of the readers' libraries quote files. Ctrl-C is the parent's to answer. A parent that
    is killed says goodbye to nobody, and its processes would wait for work for ever.
    """
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
