"""The SuperNode's key, its settings, and the pace of its loop."""

import stat
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.primitives.asymmetric import bytes_to_public_key

from wardround.client.errors import SiteStateError
from wardround.client.pace import Pace
from wardround.client.supernode import (
    SuperNodeConfig,
    SuperNodeProcess,
    create_node_key,
    new_secret,
    node_public_key,
)
from wardround.privacy.errors import KeyFileError


def test_the_key_is_private_and_in_the_form_that_flower_registers(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    public = create_node_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert isinstance(bytes_to_public_key(public).curve, ec.SECP384R1)
    assert node_public_key(path) == public


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    create_node_key(tmp_path / "node.key")
    with pytest.raises(KeyFileError):
        create_node_key(tmp_path / "node.key")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    create_node_key(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError):
        node_public_key(path)


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for content in (other, b"nothing"):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(SiteStateError, match="P-384"):
            node_public_key(path)


def test_secrets_and_key_paths_stay_out_of_texts(tmp_path: Path) -> None:
    secret = new_secret()
    config = SuperNodeConfig(
        "127.0.0.1:1", tmp_path / "ca", tmp_path / "key.pem", tmp_path, secret=secret
    )
    assert len(secret) == 32
    assert repr(secret) not in repr(config)
    assert "key.pem" not in repr(config)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    create_node_key(tmp_path / "node.key")
    (tmp_path / "ca.crt").write_text("")
    config = SuperNodeConfig(
        "127.0.0.1:1", tmp_path / "ca.crt", tmp_path / "node.key", tmp_path / "flower"
    )
    first = SuperNodeProcess(config)
    port = int(first.address.rpartition(":")[2])
    second = SuperNodeConfig(
        "127.0.0.1:1",
        tmp_path / "ca.crt",
        tmp_path / "node.key",
        tmp_path / "flower",
        runtime_port=port,
    )
    with pytest.raises(SiteStateError, match=str(port)):
        SuperNodeProcess(second)
    first.stop()


def test_the_loop_looks_often_while_messages_come_and_seldom_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0
    pauses: list[float] = []
    monkeypatch.setattr("wardround.client.pace.time.monotonic", lambda: clock)
    monkeypatch.setattr("wardround.client.pace.time.sleep", pauses.append)
    pace = Pace()
    for silence in (0.0, 119.0, 121.0, 1799.0, 1801.0):
        clock = silence
        pace.sleep(3)
    pace.sleep(0.5)
    pace.sleep(3)
    assert pauses == [0.2, 0.2, 1.0, 1.0, 3, Pace.REPLY_SECONDS, 0.2]


def test_a_supernode_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    create_node_key(tmp_path / "node.key")
    (tmp_path / "ca.crt").write_text("")
    monkeypatch.setattr("wardround.client.supernode.sys.executable", str(tmp_path / "none"))
    monkeypatch.setattr("wardround.client.supernode.RESTART_SECONDS", (0.01,))
    config = SuperNodeConfig(
        "127.0.0.1:1", tmp_path / "ca.crt", tmp_path / "node.key", tmp_path / "flower"
    )
    with SuperNodeProcess(config) as node:
        end = time.monotonic() + 20
        while node.restarts < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert node.pid is None
    assert "could not be started (No such file or directory)" in caplog.text


def test_an_unknown_user_is_named(tmp_path: Path) -> None:
    create_node_key(tmp_path / "node.key")
    (tmp_path / "ca.crt").write_text("")
    config = SuperNodeConfig(
        "127.0.0.1:1", tmp_path / "ca.crt", tmp_path / "node.key", tmp_path, user="no-such-user"
    )
    with pytest.raises(SiteStateError, match="no-such-user"):
        SuperNodeProcess(config)
