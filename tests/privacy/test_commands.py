"""How a command ends, and who is at the keyboard."""

import gc
import getpass
import os

import pytest

from wardround.privacy import commands
from wardround.privacy.errors import WardroundError


def failing(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (WardroundError("no such study; see `study list`"), 1, "error: no such study"),
        (FileNotFoundError(2, "No such file or directory", "plan.toml"), 1, "error: plan.toml: No"),
        (OSError(28, "No space left on device"), 1, "error: system: No space"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_persons_mistake_ends_in_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.run(lambda: failing(error))
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(said)
    assert printed.err.count("\n") == (1 if said else 0)


def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        commands.run(lambda: failing(ZeroDivisionError()))


def test_an_account_without_a_name_is_called_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", unknown)
    assert commands.operator() == f"uid-{os.getuid()}"


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_while_libraries_load(enabled: bool) -> None:
    if not enabled:
        gc.disable()
    try:
        with pytest.raises(ImportError, match="at work: False"), commands.loading():
            failing(ImportError(f"collector at work: {gc.isenabled()}"))
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
