"""Fixtures shared by every test."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None, print_blob=True)
settings.load_profile("suite")

REPOSITORY = Path(__file__).resolve().parent.parent

# Each a minute or more, in this order: what begins last keeps one process waiting for the other.
# No two that start many processes stand beside each other.
BEGIN_WITH = (
    "test_real_processes.py",
    "test_study_in_process.py",
    "test_group_mode_processes.py",
    "test_group_mode.py",
    "test_flower_processes.py",
    "test_group_mode_attacks.py",
    "test_notebook.py",
    "test_accessibility.py",
    "test_secagg_deliveries.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest (with pytest-xdist: --no-loadscope-reorder)."""
    place = {name: number for number, name in enumerate(BEGIN_WITH)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def shared_data_folder() -> Path:
    """Where the real medical test data lie: WARDROUND_DATA, else beside the repository."""
    return Path(os.environ.get("WARDROUND_DATA", REPOSITORY.parent / "shared" / "data"))


def pytest_collection_finish() -> None:
    """What is loaded by now stays to the end: the collector need not look through it each time."""
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real medical data; a test that needs it is skipped where it is missing."""
    folder = shared_data_folder()
    if not folder.is_dir():
        pytest.skip("real medical test data are not on this machine (set WARDROUND_DATA)")
    return folder
