"""Fixtures shared by every test."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None, print_blob=True)
settings.load_profile("suite")

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_data_folder() -> Path:
    """Where the real medical test data lie: WARDROUND_DATA, else beside the repository."""
    return Path(os.environ.get("WARDROUND_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real medical data; a test that needs it is skipped where it is missing."""
    folder = shared_data_folder()
    if not folder.is_dir():
        pytest.skip("real medical test data are not on this machine (set WARDROUND_DATA)")
    return folder
