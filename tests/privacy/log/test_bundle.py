"""Evidence bundles come from someone who is not trusted: what is refused before it is read."""

import hashlib
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.privacy import bundle as bundle_module
from wardround.privacy.bundle import (
    CHECKPOINTS,
    COLUMNS,
    ENTRIES,
    MANIFEST,
    PROJECTIONS,
    Bundle,
    BundleWriter,
)
from wardround.privacy.errors import BundleInvalid

BLOB = b"ciphertext" * 100
DIGEST = hashlib.sha256(BLOB).hexdigest()


def write(path: Path, blob: bytes = BLOB) -> Path:
    with BundleWriter(path) as made:
        made.add(MANIFEST, [b"{}"])
        made.add_lines(ENTRIES, [b"one", b"two"])
        made.add_lines(COLUMNS, [b"1", b"2"])
        made.add_lines(CHECKPOINTS, [])
        made.add(PROJECTIONS, [b"{", b"}"])
        made.add(f"blobs/{DIGEST}", [blob])
    return path


def test_what_is_written_is_read_and_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.zip"), write(tmp_path / "two.zip")
    assert one.read_bytes() == two.read_bytes()
    with Bundle(one) as read:
        assert list(read.lines(ENTRIES)) == [b"one", b"two"]
        assert list(read.lines(CHECKPOINTS)) == []
        assert read.read(PROJECTIONS) == b"{}"
        assert read.blob(DIGEST) == BLOB
        assert read.blob("0" * 64) is None
        assert f"blobs/{DIGEST}" in read


def test_a_bundle_is_never_written_over(tmp_path: Path) -> None:
    path = write(tmp_path / "one.zip")
    with pytest.raises(FileExistsError):
        BundleWriter(path)


def test_a_bundle_that_failed_half_way_is_not_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "one.zip"

    def parts() -> Iterator[bytes]:
        yield b"{}"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk"), BundleWriter(path) as made:
        made.add(MANIFEST, parts())
    assert not path.exists()


def test_members_are_written_in_their_order_only(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "one.zip") as made:
        made.add(ENTRIES, [b""])
        with pytest.raises(BundleInvalid, match="too late"):
            made.add(MANIFEST, [b""])
        with pytest.raises(BundleInvalid, match="too late"):
            made.add(ENTRIES, [b""])
        with pytest.raises(BundleInvalid, match="not a member"):
            made.add("notes.txt", [b""])


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "blobs/../manifest.json",
        "..\\manifest.json",
        "C:\\manifest.json",
        "blobs/" + "A" * 64,
        "blobs/" + "0" * 63,
        "entries.jsonl/",
        "entries.jsonl\n",
        "policy.txt",
        "log.key",
        "",
    ],
)
def test_a_member_of_any_other_name_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "one.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(BundleInvalid, match="which no bundle has"):
        Bundle(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile's, at making the attack
def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "one.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(MANIFEST, b"[]")
    with pytest.raises(BundleInvalid, match="twice"):
        Bundle(path)


def test_a_zip_bomb_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr(ENTRIES, bytes(2**26))
    assert path.stat().st_size < 2**17
    with pytest.raises(BundleInvalid, match="would unpack"):
        Bundle(path)


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "MAX_MEMBERS", 5)
    with pytest.raises(BundleInvalid, match="at most 5"):
        Bundle(write(tmp_path / "one.zip"))


def test_too_much_in_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "MAX_TOTAL", 900)
    with pytest.raises(BundleInvalid, match="more than 900 bytes"):
        Bundle(write(tmp_path / "one.zip"))


def test_another_compression_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.writestr(MANIFEST, b"{}")
    with pytest.raises(BundleInvalid, match="compressed in a way"):
        Bundle(path)


def test_a_member_that_claims_to_be_encrypted_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "one.zip")
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with Bundle(path) as read, pytest.raises(BundleInvalid, match="encrypted"):
        read.read(MANIFEST)


def test_a_symbolic_link_is_read_as_the_text_it_is(tmp_path: Path) -> None:
    """Nothing is ever unpacked to disk, so a link points nowhere."""
    path = tmp_path / "link.zip"
    info = zipfile.ZipInfo(MANIFEST)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, b"/etc/passwd")
    with Bundle(path) as read:
        assert read.read(MANIFEST) == b"/etc/passwd"


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "one.zip")
    path.write_bytes(path.read_bytes().replace(BLOB, b"x" * len(BLOB)))
    with Bundle(path) as read, pytest.raises(BundleInvalid, match="damaged"):
        read.blob(DIGEST)


def test_a_blob_of_other_bytes_is_refused(tmp_path: Path) -> None:
    with Bundle(write(tmp_path / "one.zip", b"other")) as read:
        with pytest.raises(BundleInvalid, match="does not hold the bytes"):
            read.blob(DIGEST)
        with pytest.raises(BundleInvalid, match="at most 3"):
            read.blob(DIGEST, limit=3)


def test_an_endless_line_or_one_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.zip"
    with BundleWriter(path) as made:
        made.add(ENTRIES, [b"x" * 5000])
    with Bundle(path) as read, pytest.raises(BundleInvalid, match="does not end"):
        list(read.lines(ENTRIES))
    monkeypatch.setattr(bundle_module, "MAX_LINE", 1000)
    with Bundle(path) as read, pytest.raises(BundleInvalid, match="more than 1000"):
        list(read.lines(ENTRIES))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid, match="does not exist"):
        Bundle(tmp_path / "nothing.zip")
    path = tmp_path / "empty.zip"
    with zipfile.ZipFile(path, "w"):
        pass
    with Bundle(path) as read, pytest.raises(BundleInvalid, match=r"has no manifest\.json"):
        read.read(MANIFEST)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_the_right_error_only(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.zip"
    path.write_bytes(data)
    with pytest.raises(BundleInvalid):
        Bundle(path)
