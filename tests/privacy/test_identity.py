"""Keys stay in private files, names and rosters have one form."""

import os
from pathlib import Path

import pytest

from wardround.privacy.errors import (
    IdentityUnknown,
    KeyFileError,
    MalformedData,
    SignatureInvalid,
)
from wardround.privacy.identity import (
    FileSigner,
    Roster,
    SiteKeys,
    fingerprint,
    verify_signature,
)


def make_keys(site: str) -> SiteKeys:
    identity, witness = (FileSigner.generate().public_bytes() for _ in range(2))
    return SiteKeys(site, identity, witness, os.urandom(49))


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_key_file_round_trips(tmp_path: Path, passphrase: str | None) -> None:
    made = FileSigner.create(tmp_path / "key", passphrase)
    loaded = FileSigner.load(tmp_path / "key", passphrase)
    verify_signature(made.public_bytes(), loaded.sign(b"text"), b"text")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(SignatureInvalid):
        verify_signature(made.public_bytes(), loaded.sign(b"text"), b"other")


def test_wrong_passphrase_opens_nothing(tmp_path: Path) -> None:
    FileSigner.create(tmp_path / "key", "right")
    with pytest.raises(KeyFileError, match="does not open"):
        FileSigner.load(tmp_path / "key", "wrong")
    with pytest.raises(KeyFileError, match="is locked"):
        FileSigner.load(tmp_path / "key")


def test_key_readable_by_others_is_refused(tmp_path: Path) -> None:
    FileSigner.create(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        FileSigner.load(tmp_path / "key")


def test_key_is_never_overwritten_nor_guessed(tmp_path: Path) -> None:
    FileSigner.create(tmp_path / "key")
    with pytest.raises(KeyFileError, match="never overwritten"):
        FileSigner.create(tmp_path / "key")
    with pytest.raises(KeyFileError, match="is missing"):
        FileSigner.load(tmp_path / "none")
    (tmp_path / "other").write_bytes(b"hello")
    (tmp_path / "other").chmod(0o600)
    with pytest.raises(KeyFileError, match="not a Wardround key"):
        FileSigner.load(tmp_path / "other")


def test_secret_does_not_show_in_repr(tmp_path: Path) -> None:
    signer = FileSigner.create(tmp_path / "key")
    secret = (tmp_path / "key").read_bytes()[-32:]
    assert secret.hex() not in repr(signer)
    assert "Private" not in repr(signer)


def test_roster_is_ordered_unique_and_hashed() -> None:
    north, south = make_keys("north"), make_keys("south")
    roster = Roster((north, south))
    assert list(roster) == ["north", "south"]
    assert roster["south"] == south
    assert roster.digest() != Roster((north,)).digest()
    assert SiteKeys.from_json(north.to_json()) == north
    with pytest.raises(IdentityUnknown):
        roster["east"]
    with pytest.raises(MalformedData, match="order"):
        Roster((south, north))
    twin = SiteKeys("twin", south.identity, os.urandom(32), os.urandom(49))
    with pytest.raises(MalformedData, match="under two names"):
        Roster((south, twin))


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a-", "a" * 33, "a\nb", "../a"])
def test_site_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(MalformedData, match="site name"):
        make_keys(name)


def test_witness_key_must_differ_from_identity() -> None:
    key = FileSigner.generate().public_bytes()
    with pytest.raises(MalformedData, match="one key as identity and witness"):
        SiteKeys("north", key, key, b"p384")


def test_fingerprint_is_short_and_depends_on_every_key() -> None:
    assert len(fingerprint(b"a", b"b")) == 24
    assert fingerprint(b"a") != fingerprint(b"b")
