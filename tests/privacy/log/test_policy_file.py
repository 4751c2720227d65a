"""The auditor's policy file: what it says, and what it must not."""

import pytest

from wardround.privacy.errors import PolicyInvalid
from wardround.privacy.identity import FileSigner, Roster, SiteKeys
from wardround.privacy.verify import Policy, site_line, write_policy

ORIGIN = "wardround.example/log"
KEYS = [FileSigner.generate().public_bytes() for _ in range(7)]
ROSTER = Roster(tuple(SiteKeys(f"site-{n}", KEYS[2 * n], KEYS[2 * n + 1], b"k%d" % n)
                      for n in range(3)))  # fmt: skip
TEXT = write_policy(ORIGIN, KEYS[6], ROSTER, 2)


def test_a_policy_that_was_written_is_read() -> None:
    policy = Policy.from_text(TEXT)
    assert (policy.origin, policy.log_public, policy.quorum) == (ORIGIN, KEYS[6], 2)
    assert policy.tolerance_ms == 300_000
    assert list(policy.sites) == ["site-0", "site-1", "site-2"]
    assert policy.sites["site-1"].identities == {KEYS[2]}
    assert policy.sites["site-1"].witnesses == {KEYS[3]}


def test_comments_and_empty_lines_are_skipped_and_a_site_may_have_two_lines() -> None:
    fresh = [FileSigner.generate().public_bytes() for _ in range(2)]
    more = site_line(ORIGIN, "site-1", *fresh)
    policy = Policy.from_text(f"# mine\n\n{TEXT}{more}\n")
    assert policy.sites["site-1"].identities == {KEYS[2], fresh[0]}
    assert len(policy.sites) == 3


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("quorum 2", "quorum 0", "1 to 3"),
        ("quorum 2", "quorum 4", "1 to 3"),
        ("quorum 2", "quorum two", "line 5"),
        ("quorum 2", "quorum 2\nquorum 1", "line 6"),
        ("quorum 2", "", "names one log"),
        ("clock-tolerance 300", "clock-tolerance -1", "0 to 86400"),
        ("clock-tolerance 300", "frobnicate 1", "line 6"),
        ("log ", "log x", "line 1"),
        ("log ", "# log ", "line 2"),
        ("site site-0", "site site-9", "not named after"),
        ("site site-0", "site SITE", "not a site name"),
        (" witness ", " identity ", "line 2"),
    ],
)
def test_a_policy_that_cannot_be_used(old: str, new: str, reason: str) -> None:
    assert old in TEXT
    with pytest.raises(PolicyInvalid, match=reason):
        Policy.from_text(TEXT.replace(old, new, 1))


def test_the_same_line_twice_is_refused() -> None:
    line = TEXT.splitlines()[1]
    with pytest.raises(PolicyInvalid, match="twice"):
        Policy.from_text(f"{TEXT}{line}\n")


def test_a_policy_too_large_is_refused() -> None:
    with pytest.raises(PolicyInvalid, match="too large"):
        Policy.from_text("#" * 2**21)
