"""The report of a run that really happened: real keys, log, witnesses, masks, and verifier."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wardround.privacy.bundle import ENTRIES, Bundle
from wardround.privacy.presentation.html import render_html
from wardround.privacy.verify import Policy, verify
from wardround.server.report import RunReport, build_report, write_report
from wardround.server.report.document import run_document
from wardround.server.report.gaps import gaps


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The study that the tests of the audit log play, run to its end."""
    path = Path(__file__).parent.parent / "audit" / "audit_study.py"
    spec = importlib.util.spec_from_file_location("report_study", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    made = module.Study(tmp_path_factory.mktemp("study"))
    made.run_all()
    yield made
    made.close()


@pytest.fixture(scope="module")
def real(study: Any) -> RunReport:
    """The report made from the bundle of that study, after its verification."""
    evidence = study.evidence()
    with Bundle(evidence.bundle) as bundle:
        checked = verify(
            bundle,
            Policy.from_text(evidence.policy),
            pins=[evidence.pin],
            replay=True,
            recompute_epsilon=True,
        )
        return build_report(bundle.lines(ENTRIES), checked)


def test_verified_run(real: RunReport) -> None:
    assert real.verdict.value == "verified"
    page = render_html(run_document(real))
    assert "The evidence of this run verifies and is cosigned by 4 of 4 sites." in page
    assert "q = 3, n = 4, f = 1" in page


def test_nothing_is_left_open(real: RunReport) -> None:
    assert not gaps(real)


def test_every_sum_replayed_and_every_epsilon_recomputed(real: RunReport) -> None:
    sums = [r.aggregate for r in real.rounds if r.aggregate]
    assert len(sums) == 3
    assert all(one.replayed for one in sums)
    assert len(real.spends) == 7
    for spend in real.spends:
        assert spend.recomputed is not None
        assert spend.recomputed.value == spend.after.value


def test_all_formats_are_written(real: RunReport, tmp_path: Path) -> None:
    paths = write_report(real, tmp_path)
    assert [path.suffix for path in paths] == [".html", ".json", ".pdf"]
    assert paths[2].read_bytes().startswith(b"%PDF-1.7")
