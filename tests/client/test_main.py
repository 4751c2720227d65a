"""How the command lines begin, before their modules are loaded."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["wardround.client", "wardround.server"])
def test_an_interruption_while_modules_load_ends_without_a_traceback(module: str) -> None:
    # Raised where the command line's own module would be found, so where it comes is certain.
    code = (
        "import importlib.abc, sys\n"
        "class Interrupt(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == '{module}.cli':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        f"from {module}.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (130, "")


def test_letters_that_a_terminal_lacks_end_nothing() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "wardround.client", "--help"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    code = (
        "from wardround.privacy import commands\ncommands.run(lambda: print('\\u2588 2.42 of 6'))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"? 2.42 of 6\n", b"")
