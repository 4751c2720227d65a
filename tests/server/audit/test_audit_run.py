"""An honest study verifies, in either database; blobs go after their time."""

from pathlib import Path

import pytest
from audit_forger import found
from audit_study import Evidence, Study
from sqlalchemy import URL

from wardround.privacy.bundle import Bundle
from wardround.privacy.verify import Policy, Verification, verify
from wardround.server.blobs import BlobStore, expire, uploads
from wardround.server.errors import BlobMissing, LogDamaged
from wardround.server.evidence import write_bundle


def check(evidence: Evidence, path: Path | None = None) -> Verification:
    with Bundle(path or evidence.bundle) as bundle:
        return verify(
            bundle,
            Policy.from_text(evidence.policy),
            pins=[evidence.pin],
            replay=True,
            recompute_epsilon=True,
        )


def test_a_study_run_to_its_end_is_verified(evidence: Evidence) -> None:
    result = check(evidence)
    assert result.findings == ()
    assert result.status == "verified"
    assert result.cosigners == ("a", "b", "c", "d")
    assert len(result.replayed) == 3
    assert len(result.recomputed) == 7


def test_the_bundle_is_the_same_bytes_each_time(study: Study, evidence: Evidence) -> None:
    again = study.evidence("again.zip")
    assert again.bundle.read_bytes() == evidence.bundle.read_bytes()


def test_the_same_study_in_either_database(database_url: str | URL, tmp_path: Path) -> None:
    study = Study(tmp_path, database_url)
    study.run_all()
    assert check(study.evidence()).status == "verified"
    study.close()


def test_blobs_go_after_some_rounds_and_the_verifier_says_which(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.run_all()
    kept = len(list(study.blobs))
    assert kept == 2 * (4 + 3 + 4)
    (study.blobs.folder / "00").mkdir(exist_ok=True)
    (study.blobs.folder / "00" / ".half-written").write_bytes(b"x")
    assert expire(study.engine, study.blobs, rounds=1) == 2 * (4 + 3) + 1
    result = check(study.evidence())
    assert result.status == "incomplete"
    assert {finding.check for finding in result.findings} == {"replay"}
    assert len(result.replayed) == 1
    study.close()


def test_a_blob_is_kept_once_and_checked_when_it_is_read(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    digest = blobs.put(b"ciphertext")
    assert blobs.put(memoryview(b"ciphertext")) == digest
    assert list(blobs) == [digest]
    assert blobs.get(digest) == b"ciphertext"
    assert digest in blobs
    path = blobs.folder / digest[:2] / digest
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"other")
    with pytest.raises(BlobMissing, match="damaged"):
        blobs.get(digest)
    with pytest.raises(BlobMissing, match="not kept"):
        blobs.get("0" * 64)
    with pytest.raises(BlobMissing, match="64 hexadecimal"):
        blobs.get("../../etc/passwd")


def test_the_uploads_of_one_run_go_with_its_bundle(study: Study) -> None:
    assert len(list(uploads(study.engine, "run-1"))) == 11
    assert list(uploads(study.engine, "run-2")) == []
    other = write_bundle(study.engine, study.folder / "other.zip", "run-2", study.blobs)
    assert found(check(study.evidence("one-more.zip"), other), "replay")


def test_a_log_without_a_checkpoint_gives_no_bundle(tmp_path: Path) -> None:
    study = Study(tmp_path)
    with pytest.raises(LogDamaged, match="no checkpoint"):
        write_bundle(study.engine, tmp_path / "x.zip")
    study.close()
