"""Typing a command of ours in this process, and what a person sees of it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

WIDTH = 80


@dataclass(frozen=True)
class Typed:
    """Exit code, and what was written where."""

    code: int
    out: str
    error: str

    def is_one_line_error(self) -> bool:
        """Whether it ended as a person's mistake should: exit code 1 and one clear line."""
        lines = self.error.strip().splitlines()
        return self.code == 1 and len(lines) == 1 and lines[0].startswith("error: ")


class Terminal:
    """Runs the `main` of a program as if typed, with an output of 80 columns."""

    def __init__(
        self,
        main: Callable[[], None],
        patch: pytest.MonkeyPatch,
        capture: pytest.CaptureFixture[str],
    ) -> None:
        self._main = main
        self._patch = patch
        self._capture = capture

    def __call__(self, *arguments: object) -> Typed:
        """Type the program's name and `arguments`."""
        self._patch.setattr(sys, "argv", ["program", *map(str, arguments)])
        self._capture.readouterr()
        code = 0
        try:
            self._main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        said = self._capture.readouterr()
        assert "Traceback" not in said.out + said.err
        return Typed(code, said.out, said.err)
