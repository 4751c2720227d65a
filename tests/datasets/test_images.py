"""Pictures: read exactly, and whatever is not a picture is refused by one of a few words."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from wardround.datasets.cohort_image import decode, pixel_hash, probe, scaled
from wardround.datasets.errors import FileRefused


def encode(values: NDArray[np.generic], form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, form)
    return file.getvalue()


GREY = (np.arange(48 * 32) % 251).reshape(48, 32).astype(np.uint8)
FILES = {form: encode(GREY, form) for form in ("PNG", "JPEG", "TIFF", "BMP")}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, packed: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
def test_lossless_forms_give_the_very_pixels(form: str) -> None:
    np.testing.assert_array_equal(decode(FILES[form]), GREY)


def test_sixteen_bits_stay_sixteen_bits() -> None:
    values = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    np.testing.assert_array_equal(decode(encode(values)), values)
    assert scaled(values, None).max() == pytest.approx(63 * 1024 / 65535)


def test_colour_becomes_luminance() -> None:
    colours = np.zeros((8, 8, 3), dtype=np.uint8)
    colours[..., 1] = 100
    assert set(np.unique(decode(encode(colours)))) == {59}  # 0.587 of 100, ITU-R 601-2


def test_the_same_picture_has_one_hash_in_every_form() -> None:
    assert pixel_hash(decode(FILES["PNG"])) == pixel_hash(decode(FILES["BMP"]))
    assert pixel_hash(GREY) != pixel_hash(GREY.reshape(32, 48))
    assert pixel_hash(GREY) != pixel_hash(GREY.astype(np.uint16))


def test_fitting_keeps_the_sides_in_proportion() -> None:
    fitted = scaled(np.full((40, 20), 255, dtype=np.uint8), (64, 64))
    assert fitted.shape == (1, 64, 64)
    assert fitted[0, :, 16:48].min() == 1
    assert fitted[0, :, :16].max() == fitted[0, :, 48:].max() == 0


def test_a_png_that_promises_ten_gigapixels_is_not_unpacked() -> None:
    bomb = png(100_000, 100_000, zlib.compress(b"\0" * 2**20, 9))
    with pytest.raises(FileRefused, match="bomb"):
        decode(bomb)
    with pytest.raises(FileRefused, match="bomb: 10000 x 6000 pixels"):
        decode(png(10_000, 6_000, zlib.compress(b"\0" * 2**20, 9)))


def test_several_frames_are_refused() -> None:
    file = io.BytesIO()
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    with pytest.raises(FileRefused, match="several-frames"):
        decode(file.getvalue())


def test_floating_point_and_other_forms_are_refused() -> None:
    with pytest.raises(FileRefused, match="floating-point"):
        decode(encode(GREY.astype(np.float32), "TIFF"))
    with pytest.raises(FileRefused, match="not-an-image"):
        decode(encode(GREY, "GIF"))  # no form hospitals keep pictures in, so not read
    with pytest.raises(FileRefused, match="not-an-image"):
        decode(b"%PDF-1.7 no picture")


@pytest.mark.parametrize("form", sorted(FILES))
@pytest.mark.parametrize("part", [0.1, 0.5, 0.7])
def test_truncated_files_are_refused(form: str, part: float) -> None:
    data = FILES[form]
    with pytest.raises(FileRefused, match=r"truncated|not-an-image"):
        decode(data[: int(len(data) * part)])


@given(
    form=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 10_000),
)
def test_damaged_files_are_read_or_refused_and_nothing_else(
    form: str, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(FILES[form])
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(FileRefused):
        values = decode(bytes(data[: max(1, len(data) - cut % 100)]))
        assert values.ndim == 2
        assert values.dtype in (np.uint8, np.uint16)


@given(st.binary(min_size=1, max_size=300))
def test_noise_is_not_an_image(data: bytes) -> None:
    with pytest.raises(FileRefused, match=r"not-an-image|truncated"):
        decode(data)


def test_a_blank_picture_is_mentioned(tmp_path: Path) -> None:
    (tmp_path / "blank.png").write_bytes(encode(np.zeros((8, 8), dtype=np.uint8)))
    assert probe(("blank.png",), root=tmp_path, key=bytes(32)).notes == (("flat", ""),)
