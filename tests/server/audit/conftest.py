"""Lets the tests of this folder import their study and their forger."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from audit_study import Evidence, Study  # its folder is on the path only now


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A study that was run to its end: real keys, real log, real witnesses, real masks."""
    made = Study(tmp_path_factory.mktemp("study"))
    made.run_all()
    yield made
    made.close()


@pytest.fixture(scope="session")
def evidence(study: Study) -> Evidence:
    """The bundle of that study, its policy and a site's pin."""
    return study.evidence()
