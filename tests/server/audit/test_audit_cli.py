"""`wardround-verify` as an auditor runs it: exit status, last line, JSON, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from audit_forger import Forger
from audit_study import Evidence, Study

from wardround.privacy import canonical
from wardround.privacy.verify.cli import run


@pytest.fixture
def files(evidence: Evidence, tmp_path: Path) -> list[str]:
    (tmp_path / "policy.txt").write_text(evidence.policy)
    (tmp_path / "site.note").write_bytes(evidence.pin)
    return [
        str(evidence.bundle), "--policy", f"{tmp_path}/policy.txt", "--pin",
        f"{tmp_path}/site.note", "--replay",
    ]  # fmt: skip


def test_verified(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*files, "--recompute-epsilon"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "verified"
    assert "cosigned by  a, b, c, d (quorum 3 of 4)" in out
    assert "impossible with up to 1 site colluding" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_incomplete_says_what_is_missing(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(files[:3]) == 2
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("incomplete: 2 things are missing")
    assert "--pin" in out
    assert "--replay" in out
    assert "no checkpoint that was kept outside was given" in out, "nothing is said to be wrong"


def test_tampered_names_entry_expected_and_found(
    files: list[str], study: Study, evidence: Evidence, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    forger = Forger(study, evidence)
    at = forger.find("aggregate", round=1)
    forger.edit(at, weight=99)
    path = forger.rederive().seal().write(tmp_path / "forged.zip")
    assert run([str(path), *files[1:3], "--replay"]) == 1
    out = capsys.readouterr().out
    assert f"tampered  entry {at}: adding up again" in out
    assert max(map(len, out.splitlines())) <= 120, "a digest is not broken"
    assert out.splitlines()[-1].startswith("tampered: ")


def test_json_is_for_machines(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*files, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["status"] == "verified"
    assert value["findings"] == []
    assert len(value["replayed"]) == 3


@pytest.mark.parametrize(
    "change",
    [
        {1: "--plicy"},
        {2: "/nowhere/policy.txt"},
        {4: "/nowhere/site.note"},
        {0: "/nowhere/bundle.zip"},
    ],
)
def test_usage(
    files: list[str], change: dict[int, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for at, value in change.items():
        files[at] = value
    assert run(files) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert "wardround-verify" in captured.err


def test_a_policy_that_cannot_be_read_is_usage_and_a_bundle_that_cannot_is_tampered(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    assert run([str(tmp_path / "junk"), *files[1:]]) == 1
    assert "not a zip file" in capsys.readouterr().out
    assert run([files[0], "--policy", str(tmp_path / "junk")]) == 3
    assert run([*files[:4], str(tmp_path / "junk")]) == 3


def test_the_base_install_is_enough(files: list[str]) -> None:
    """Nothing that only a site or the coordinator has is imported on the way."""
    script = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'flwr', 'sqlalchemy', 'typer', 'rich',\n"
        "                                  'dp_accounting', 'monai', 'opacus', 'alembic'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from wardround.privacy.verify.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *files, "--recompute-epsilon"],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "wardround[accounting]" in done.stdout
    assert done.stderr == ""


def _command(*arguments: str, encoding: str = "utf-8") -> list[str]:
    code = "from wardround.privacy.verify.cli import main; main()"
    return ["env", f"PYTHONIOENCODING={encoding}", sys.executable, "-c", code, *arguments]


def test_a_reader_that_goes_away_does_not_change_the_verdict(files: list[str]) -> None:
    """`wardround-verify ... | head -1` of a good bundle: not the status of a tampered one."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        _command(*files), stdout=writer, stderr=subprocess.PIPE, check=False, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_letters_that_a_terminal_cannot_show(
    files: list[str], study: Study, evidence: Evidence, tmp_path: Path
) -> None:
    forger = Forger(study, evidence)
    value = json.loads(forger.projections)
    value["kinds"]["caf\u00e9 \u202e\ud800"] = 1
    forger.projections = canonical.dumps(value)
    path = forger.write(tmp_path / "forged.zip")
    done = subprocess.run(
        _command(str(path), *files[1:3], encoding="ascii"), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"caf? ??" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(b"tampered: ")
