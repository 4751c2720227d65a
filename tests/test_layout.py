"""How the code is cut: one namespace, import rules that hold, small installs, a whole wheel."""

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

PACKAGES = ("client", "datasets", "privacy", "server")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())

# Refuses to import what is not named in ALLOWED, or what is named in REFUSED.
GUARD = """
import sys
from importlib.abc import MetaPathFinder

class Guard(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        outside = ALLOWED and top not in ALLOWED | sys.stdlib_module_names
        if outside or any(name == one or name.startswith(one + ".") for one in REFUSED):
            raise ModuleNotFoundError(f"REFUSED {name}", name=name)

sys.meta_path.insert(0, Guard())
"""
IMPORT_ALL = """
import importlib, pkgutil
package = importlib.import_module(PACKAGE)
missing = {}
names = [PACKAGE, *(m.name for m in pkgutil.walk_packages(package.__path__, PACKAGE + "."))]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing.setdefault(error.name, []).append(name)
print(len(names), missing)
"""
# Everything that stands beside the verifier; it may import the base install alone.
BASE = {"wardround", "numpy", "cryptography", "cffi", "_cffi_backend"}
OTHERS = {"wardround.server", "wardround.client", "wardround.datasets"}


def source(package: str) -> Path:
    """The folder of the package `wardround.PACKAGE`."""
    return REPOSITORY / package / "wardround" / package


def guarded(code: str, *, allowed: set[str] | None = None, refused: set[str] | None = None) -> str:
    """Run `code` in a process where only some modules can be imported; return what it prints."""
    head = f"ALLOWED, REFUSED = {allowed or set()!r}, {refused or set()!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", head + GUARD + code],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# -- the namespace --------------------------------------------------------------------------------


def test_the_namespace_belongs_to_no_folder() -> None:
    """An `__init__.py` here would hide the packages of the other three folders."""
    for package in PACKAGES:
        folder = REPOSITORY / package / "wardround"
        kept = [one.name for one in folder.iterdir() if one.name != "__pycache__"]
        assert kept == [package]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_one_and_typed(package: str) -> None:
    root = source(package)
    assert (root / "py.typed").read_bytes() == b""
    # Alembic reads its migrations as files; nobody imports them.
    folders = {one.parent for one in root.rglob("*.py") if "migrations" not in one.parts}
    assert [one for one in folders if not (one / "__init__.py").is_file()] == []


def test_tests_are_no_packages() -> None:
    """They mirror the packages' folders; as packages they would stand in their way."""
    assert list((REPOSITORY / "tests").rglob("__init__.py")) == []


# -- import rules ---------------------------------------------------------------------------------


def test_import_rules_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-cache", "--no-logo"], cwd=REPOSITORY, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    assert f"Contracts: {len(contracts)} kept, 0 broken." in done.stdout
    for contract in contracts:
        assert f"{contract['name']} KEPT" in done.stdout


def test_the_guard_of_these_tests_guards() -> None:
    told = guarded("try:\n import httpx\nexcept ImportError as e: print(e)", allowed=BASE)
    assert told == "REFUSED httpx\n"
    code = "try:\n import wardround.datasets.cohort\nexcept ImportError as e: print(e)"
    assert guarded(code, refused=OTHERS) == "REFUSED wardround.datasets\n"


def test_the_verifier_needs_numpy_and_cryptography_alone() -> None:
    names = {one.split(">")[0] for one in PROJECT["project"]["dependencies"]}
    assert names == {"numpy", "cryptography"}
    script = PROJECT["project"]["scripts"]["wardround-verify"]
    assert script == "wardround.privacy.verify.cli:main"
    code = (
        "import sys\nsys.argv = ['wardround-verify', '--help']\n"
        "from wardround.privacy.verify.cli import main\n"
        "try:\n main()\nexcept SystemExit as end:\n assert not end.code\n"
    )
    assert "usage: wardround-verify" in guarded(code, allowed=BASE, refused=OTHERS)


def test_what_an_auditor_installs_imports_everything_but_reports_and_prices() -> None:
    code = f"PACKAGE = 'wardround.privacy'\n{IMPORT_ALL}"
    count, missing = guarded(code, allowed=BASE, refused=OTHERS).split(" ", 1)
    assert int(count) > 40
    found = ast.literal_eval(missing)
    assert set(found) <= {"jinja2", "dp_accounting"}
    assert found.get("dp_accounting", []) in ([], ["wardround.privacy.sampled_gaussian"])
    assert all(
        name.startswith("wardround.privacy.presentation") for name in found.get("jinja2", [])
    )


def test_the_coordinator_runs_without_what_trains_or_reads_patients() -> None:
    refused = {
        *("torch", "torchvision", "monai", "opacus", "pydicom", "nibabel", "pylibjpeg"),
        *("wardround.client", "wardround.datasets"),
    }
    code = f"PACKAGE = 'wardround.server'\n{IMPORT_ALL}"
    count, missing = guarded(code, refused=refused).split(" ", 1)
    assert int(count) > 30
    assert missing == "{}\n"


# -- the wheel ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without a network."""
    if find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    expected = {
        str(path.relative_to(REPOSITORY / package))
        for package in PACKAGES
        for path in source(package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    inside = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert inside == expected
    assert {
        *(f"wardround/{package}/py.typed" for package in PACKAGES),
        *("annex_e.txt", "burned_weights.txt", "iod_types.txt", "private_safe.txt", "words.txt"),
        "wardround/privacy/presentation/templates/document.html.jinja",
        "wardround/privacy/presentation/templates/document.css",
        "wardround/privacy/presentation/templates/document.typ",
        "wardround/server/report/provisions.toml",
        "wardround/server/migrations/env.py",
        "wardround/server/migrations/script.py.mako",
        "wardround/server/migrations/versions/0001_audit_log.py",
    } <= inside | {Path(name).name for name in inside if "/deidentify/" in name}


def test_the_wheel_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    (name,) = (one for one in wheel.namelist() if one.endswith(".dist-info/METADATA"))
    head = wheel.read(name).decode().split("\n\n")[0].splitlines()
    needs = [line.removeprefix("Requires-Dist: ") for line in head if line.startswith("Requires-D")]
    assert sorted(one.split(">")[0] for one in needs if "extra ==" not in one) == [
        *("cryptography", "numpy")
    ]
    assert "Requires-Python: >=3.11" in head
    assert "License-Expression: Apache-2.0" in head
    (name,) = (one for one in wheel.namelist() if one.endswith("entry_points.txt"))
    told = wheel.read(name).decode()
    for program, target in PROJECT["project"]["scripts"].items():
        assert f"{program} = {target}" in told
