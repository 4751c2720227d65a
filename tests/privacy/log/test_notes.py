"""Signed notes, checkpoints and cosignatures against C2SP's text and Go's own example."""

import base64
import contextlib
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.privacy.errors import MalformedData, SignatureInvalid
from wardround.privacy.identity import FileSigner, verify_signature
from wardround.privacy.notes import (
    Checkpoint,
    Note,
    NoteSignature,
    cosign,
    key_hint,
    open_checkpoint,
    read_verifier_key,
    sign_checkpoint,
    sign_note,
    verifier_key,
    verify_cosignature,
    verify_note,
)

# The example of golang.org/x/mod/sumdb/note (note.go, package documentation).
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpR"
    "Zb6KE6RyyBwJnAM=\n"
).encode()

ORIGIN = "example.com/log"
LOG, WITNESS = FileSigner.generate(), FileSigner.generate()
POINT = Checkpoint(ORIGIN, 7, hashlib.sha256(b"root").digest())


def test_the_note_of_gos_documentation_verifies() -> None:
    name, public = read_verifier_key(GO_KEY)
    note = Note.from_bytes(GO_NOTE)
    verify_note(note, name, public)
    assert note.to_bytes() == GO_NOTE
    assert verifier_key(name, public) == GO_KEY
    with pytest.raises(SignatureInvalid):
        verify_note(replace(note, text=note.text.replace("think", "thank")), name, public)


def test_a_cosignature_signs_what_the_specification_says() -> None:
    """tlog-cosignature, "Signed message": header, time line, then the checkpoint's text."""
    text = POINT.to_text()
    line = cosign(text, "w.example/1", WITNESS, 1_679_315_147)
    message = (
        "cosignature/v1\ntime 1679315147\nexample.com/log\n7\n"
        + base64.b64encode(POINT.root).decode()
        + "\n"
    ).encode()
    verify_signature(WITNESS.public_bytes(), line.body[8:], message)
    assert line.body[:8] == (1_679_315_147).to_bytes(8, "big")
    hint = hashlib.sha256(b"w.example/1\n\x04" + WITNESS.public_bytes()).digest()[:4]
    assert line.key_id == hint
    assert verify_cosignature(text, line, "w.example/1", WITNESS.public_bytes()) == 1_679_315_147


def test_a_log_signature_is_never_a_cosignature() -> None:
    text = POINT.to_text()
    log_line = sign_note(text, "x", LOG)
    with pytest.raises(SignatureInvalid, match="not by"):
        verify_cosignature(text, log_line, "x", LOG.public_bytes())
    forged = NoteSignature(
        "x", key_hint("x", LOG.public_bytes(), cosigner=True), b"\0" * 8 + log_line.body
    )
    with pytest.raises(SignatureInvalid):
        verify_cosignature(text, forged, "x", LOG.public_bytes())


def test_a_checkpoint_of_another_log_or_key_is_refused() -> None:
    note = sign_checkpoint(POINT, LOG)
    assert open_checkpoint(note, ORIGIN, LOG.public_bytes()) == POINT
    with pytest.raises(SignatureInvalid, match="0 signatures"):
        open_checkpoint(note, ORIGIN, WITNESS.public_bytes())
    with pytest.raises(SignatureInvalid, match="0 signatures"):
        open_checkpoint(note, "example.com/other", LOG.public_bytes())
    other = Checkpoint("example.com/other", 7, POINT.root).to_text()
    with pytest.raises(MalformedData, match="not of"):
        open_checkpoint(Note(other, (sign_note(other, ORIGIN, LOG),)), ORIGIN, LOG.public_bytes())


def test_a_note_signed_twice_by_one_key_is_refused() -> None:
    note = sign_checkpoint(POINT, LOG)
    with pytest.raises(SignatureInvalid, match="2 signatures"):
        verify_note(replace(note, signatures=note.signatures * 2), ORIGIN, LOG.public_bytes())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("o\n07\n" + "A" * 43 + "=\n", "not a checkpoint"),
        ("o\n-1\n" + "A" * 43 + "=\n", "not a checkpoint"),
        ("o\n7\n" + "A" * 43 + "=\nextension\n", "not a checkpoint"),
        ("\n7\n" + "A" * 43 + "=\n", "not a checkpoint"),
        ("o\n7\n" + "A" * 42 + "==\n", "not 32 bytes"),
        ("o\n7\n" + "A" * 42 + "B=\n", "one form"),
        ("o\n7\n" + "!" * 44 + "\n", "not base64"),
    ],
)
def test_a_text_that_is_not_a_checkpoint(text: str, reason: str) -> None:
    with pytest.raises(MalformedData, match=reason):
        Checkpoint.from_text(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n",
        b"text\n\n",
        b"text\n\nno dash\n",
        "text\n\n— name AAAA\n".encode(),
        "text\n\n— name AAAAAAAA".encode(),
        "te\txt\n\n— name AAAAAAAA\n".encode(),
        "text\n\n— na+me AAAAAAAA\n".encode(),
        b"\xff\n\n\xe2\x80\x94 name AAAAAAAA\n",
    ],
)
def test_bytes_that_are_not_a_note(data: bytes) -> None:
    with pytest.raises(MalformedData):
        Note.from_bytes(data)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_the_right_error_only(data: bytes) -> None:
    with contextlib.suppress(MalformedData):
        assert Note.from_bytes(data).to_bytes() == data


def test_a_key_under_another_name_is_another_key() -> None:
    key = verifier_key("a", LOG.public_bytes())
    with pytest.raises(MalformedData, match="expected kind"):
        read_verifier_key("b" + key[1:])
    with pytest.raises(MalformedData, match="expected kind"):
        read_verifier_key(key, cosigner=True)
    with pytest.raises(MalformedData, match="no spaces"):
        verifier_key("a b", LOG.public_bytes())
