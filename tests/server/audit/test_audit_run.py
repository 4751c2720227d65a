"""An honest study verifies; what is left out is said."""

from audit_study import Evidence

from wardround.privacy.bundle import Bundle
from wardround.privacy.verify import Policy, verify


def test_a_study_run_to_its_end_is_verified(evidence: Evidence) -> None:
    with Bundle(evidence.bundle) as bundle:
        result = verify(
            bundle,
            Policy.from_text(evidence.policy),
            pins=[evidence.pin],
            replay=True,
            recompute_epsilon=True,
        )
    assert result.findings == ()
    assert result.status == "verified"
    assert result.cosigners == ("a", "b", "c", "d")
    assert len(result.replayed) == 3
    assert len(result.recomputed) == 7
