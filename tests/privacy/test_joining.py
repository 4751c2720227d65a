"""A token is whole or refused; a signed call fits one site, one path, one body, one time."""

import os

import pytest

from wardround.privacy.errors import MalformedData, SignatureInvalid
from wardround.privacy.identity import FileSigner
from wardround.privacy.joining import JoinToken, sign_call, verify_call

NOW = 1_800_000_000_000


def make_token() -> JoinToken:
    return JoinToken(
        "https://coordinator.example:9443",
        "north",
        "wardround.example/log",
        os.urandom(32).hex(),
        os.urandom(32),
        os.urandom(32),
        os.urandom(32),
    )


def test_token_round_trips_and_hides_its_secret() -> None:
    token = make_token()
    assert JoinToken.from_text("  " + token.to_text() + "\n") == token
    assert token.secret.hex() not in repr(token)
    assert repr(token.secret) not in repr(token)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_token_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(MalformedData, match="not a join token"):
        JoinToken.from_text(make_token().to_text()[:-cut])


@pytest.mark.parametrize("text", ["", "wr1.", "wr1.e30", "wr2.abcd", "hello", "wr1.\u00e9"])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(MalformedData, match="not a join token"):
        JoinToken.from_text(text)


def test_a_token_for_plain_http_is_refused() -> None:
    token = make_token()
    plain = JoinToken(
        "http://x", token.site, token.origin, token.ca, b"a" * 32, b"b" * 32, token.secret
    )
    with pytest.raises(MalformedData, match="https"):
        JoinToken.from_text(plain.to_text())


def test_a_signed_call_verifies_only_as_it_was_made() -> None:
    signer = FileSigner.generate()
    headers = sign_call(signer, "north", "POST", "/sync", b"body", NOW)
    public = signer.public_bytes()
    verify_call(public, headers, "POST", "/sync", b"body", NOW + 1000)
    for method, path, body, now, changed in (
        ("GET", "/sync", b"body", NOW, {}),
        ("POST", "/other", b"body", NOW, {}),
        ("POST", "/sync", b"Body", NOW, {}),
        ("POST", "/sync", b"body", NOW + 300_001, {}),
        ("POST", "/sync", b"body", NOW - 300_001, {}),
        ("POST", "/sync", b"body", NOW, {"x-wardround-site": "south"}),
        ("POST", "/sync", b"body", NOW, {"x-wardround-time": str(NOW + 1)}),
        ("POST", "/sync", b"body", NOW, {"x-wardround-signature": "zz"}),
    ):
        with pytest.raises(SignatureInvalid):
            verify_call(public, {**headers, **changed}, method, path, body, now)
    with pytest.raises(SignatureInvalid):
        verify_call(FileSigner.generate().public_bytes(), headers, "POST", "/sync", b"body", NOW)
    with pytest.raises(SignatureInvalid, match="not signed by a site"):
        verify_call(public, {}, "POST", "/sync", b"body", NOW)
