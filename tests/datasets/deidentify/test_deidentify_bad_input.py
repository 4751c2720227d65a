"""What hospitals' folders hold besides good DICOM: a clear reason each, nothing crashes."""

import io
import os
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)

from wardround.datasets.deidentify.instance import deidentify
from wardround.datasets.deidentify.profile import Profile
from wardround.datasets.deidentify.pseudonyms import Pseudonyms
from wardround.datasets.deidentify.reading import Content, parse, read_content
from wardround.datasets.deidentify.reasons import REASONS
from wardround.datasets.errors import Refused


def refusal(call, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert caught.value.reason in REASONS
    return caught.value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not_dicom"),
        (b"hello", "not_dicom"),
        (bytes(200), "not_dicom"),
        (b"PK\x03\x04" + bytes(500), "not_dicom"),
        (b"-----BEGIN PGP MESSAGE-----\n", "encrypted"),
        (bytes.fromhex("3082010006092a864886f70d010703a0") + bytes(300), "encrypted"),
        (bytes(128) + b"DICM", "truncated"),
    ],
)
def test_what_is_no_usable_dicom_says_so(run, data, reason):
    assert refusal(run, data).reason == reason


def test_a_file_cut_anywhere_is_refused(build, run):
    data = build.to_bytes(build.base())
    for cut in range(132, len(data) - 1, 11):
        assert refusal(run, data[:cut]).reason in {"truncated", "malformed", "unidentified"}


def test_fewer_pixels_than_promised_is_truncated(build, run):
    dataset = build.base()
    dataset.PixelData = dataset.PixelData[:-100]
    assert refusal(run, dataset).reason in {"truncated", "pixels_unreadable"}


def test_zeros_behind_a_file_are_not_taken_for_millions_of_attributes(build, run):
    data = build.to_bytes(build.base())
    run(data + bytes(4096))  # padding, as some archives add
    with pytest.raises(Refused) as refused:
        run(data + bytes(1 << 20))
    assert refused.value.reason == "malformed"
    assert "65,536 attributes" in str(refused.value)


def test_a_decompression_bomb_is_refused_unread(build):
    dataset = build.base()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    head = build.to_bytes(dataset)
    start = head.index(b"1.2.840.10008.1.2.1.99")
    implementation = head.index(b"CNRYMETAAE", start) + 10
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join([squeeze.compress(bytes(1 << 20)) for _ in range(80)] + [squeeze.flush()])
    data = head[:implementation] + bomb
    assert len(data) < 200_000
    assert refusal(parse, Content(data, "")).reason == "expands"


def test_an_image_that_decodes_to_too_much_is_refused(build, run):
    dataset = build.base()
    dataset.Rows = dataset.Columns = 65535
    dataset.NumberOfFrames = 100_000
    assert refusal(run, dataset).reason == "too_large"


def test_a_four_gigabyte_file_is_refused_by_its_size_alone(tmp_path):
    path = tmp_path / "large.dcm"
    with path.open("wb") as file:
        file.truncate(4 << 30)
    assert refusal(read_content, path, 2 << 30).reason == "too_large"


def test_links_pipes_and_locked_files_are_not_read(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"x" * 200)
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"")
    assert refusal(read_content, tmp_path / "link", 1 << 20).reason == "link"
    assert refusal(read_content, tmp_path / "pipe", 1 << 20).reason == "special_file"
    assert refusal(read_content, tmp_path / "empty", 1 << 20).reason == "empty"


def test_a_directory_index_and_an_unknown_class_are_refused(build, run):
    index = build.base("1.2.840.10008.1.3.10")
    del index.PixelData
    assert refusal(run, index).reason == "directory"
    private = build.base("1.3.12.2.1107.5.9.1")
    assert refusal(run, private).reason == "unknown_class"


def test_an_object_without_its_own_uid_is_refused(build, run):
    dataset = build.base()
    data = build.to_bytes(dataset).replace(b"1.2.826.0.1.3680043.99.1.1", b" " * 26)
    assert refusal(run, data).reason in {"unidentified", "malformed"}


def test_only_the_modalities_asked_for_pass(build, run):
    profile = Profile(modalities=frozenset({"CT"}))
    assert refusal(run, build.base(), profile).reason == "modality"
    run(build.base("1.2.840.10008.5.1.4.1.1.2", "CT"), profile)


def test_an_unknown_transfer_syntax_is_refused(build, run):
    dataset = build.base()
    data = build.to_bytes(dataset)
    swapped = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0")
    assert refusal(run, swapped).reason in {"pixels_unreadable", "malformed"}


def test_a_value_that_does_not_fit_its_vr_goes_and_the_file_passes(build, run):
    dataset = build.base()
    data = build.to_bytes(dataset).replace(b"DS\x04\x002.5 ", b"DS\x04\x00CNRY")
    result = run(data)
    assert b"CNRY" not in result.data
    assert result.counts["undecodable_removed"] == 1


def test_refusals_name_nothing_of_the_file(build, run, caplog, capsys):
    """Neither the message nor any log shows a value, a UID or a name."""
    data = build.to_bytes(build.base()).replace(b"20210907", b"Okonkwo!")
    for cut in (403, 500, len(data) - 50):
        text = str(refusal(run, data[:cut]))
        assert "konkwo" not in text
        assert "3680043" not in text
    captured = capsys.readouterr()
    assert "konkwo" not in captured.out + captured.err


def sample(build) -> bytes:
    dataset = build.base()
    item = Dataset()
    item.CodeMeaning = "Hippocampus"
    dataset.AnatomicRegionSequence = [item]
    dataset.private_block(0x0009, "MAKER", create=True).add_new(1, "LO", "x")
    dataset.SOPInstanceUID = UID("1.2.826.0.1.3680043.99.1.9")
    return build.to_bytes(dataset)


def attempt(build, content: bytes) -> tuple[str, bytes]:
    """Return the reason of the refusal, or "passed" and the result."""
    try:
        result = deidentify(Content(content, ""), Profile(), Pseudonyms(build.key))
    except Refused as refused:
        return refused.reason, b""
    return "passed", result.data


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz_any_damaged_file_is_refused_or_clean(build, data):
    """Bytes changed, put in, taken out: a result without the name, or a reason of the list."""
    content = bytearray(sample(build))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(content) - 1, 1400)))
        action = data.draw(st.sampled_from(["set", "insert", "delete"]))
        piece = data.draw(st.binary(min_size=1, max_size=6))
        if action == "set":
            content[at : at + len(piece)] = piece
        elif action == "insert":
            content[at:at] = piece
        else:
            del content[at : at + len(piece)]
    reason, result = attempt(build, bytes(content))
    assert reason in REASONS or b"4471902" not in result


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=600))
def test_fuzz_junk_after_a_header_never_crashes(build, junk):
    for head in (bytes(128) + b"DICM", sample(build)[:300], b"\x08\x00\x05\x00"):
        reason, _ = attempt(build, head + junk)
        assert reason in REASONS or reason == "passed"


@pytest.mark.parametrize(
    ("syntax", "first"),
    [(ExplicitVRLittleEndian, b"\x08\0\x16\0UI"), (ExplicitVRBigEndian, b"\0\x08\0\x16UI")],
    ids=lambda value: getattr(value, "keyword", ""),
)
def test_a_file_without_preamble_and_meta_is_read(build, run, syntax, first):
    dataset = build.base()
    dataset.file_meta.TransferSyntaxUID = syntax
    data = build.to_bytes(dataset)
    start = data.index(first)
    result = run(data[start:])
    assert result.uid.startswith("2.25.")
    assert b"MRN-4471902" not in result.data
    assert io.BytesIO(result.data).read(132)[128:] == b"DICM"
