"""A file's bytes to a pydicom data set, with every limit checked before anything is expanded."""

import errno
import hashlib
import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from pydicom import config
from pydicom._uid_dict import UID_dictionary
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_partial, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from wardround.datasets.errors import Refused
from wardround.datasets.scan_guard import encrypted, is_dicom

# pydicom answers a broken file with any of these.
BROKEN = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    NotImplementedError,
    OverflowError,
    EOFError,
    struct.error,
    RecursionError,
    InvalidDicomError,
    BytesLengthException,
    zlib.error,
)
_CHUNK = 1 << 20
_MAX_EXPANSION = 64 << 20
# An empty item has 8 bytes and becomes an object of a kilobyte.
_MAX_ATTRIBUTES = 65_536  # of a file, not counting those in sequences
_ITEM, _MAX_ITEMS = b"\xfe\xff\x00\xe0", 2_000_000
_PIXELS = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009})
_DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of one file and their SHA-256 (hex)."""

    data: bytes = field(repr=False)
    sha256: str


def read_content(path: Path, limit: int) -> Content:
    """Read a regular file of at most `limit` bytes without following a link.

    Raises Refused ("special_file", "link", "unreadable", "empty", "too_large").
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink():
            raise Refused("link", "a symbolic link") from None
        if error.errno in (errno.ENXIO, errno.ENODEV):  # sockets, devices without a driver
            raise Refused("special_file", "not a regular file") from None
        raise Refused("unreadable", f"cannot be opened: {os.strerror(error.errno or 0)}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise Refused("special_file", "not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size == 0:
            raise Refused("empty", "no bytes")
        if status.st_size > limit:
            raise Refused("too_large", f"{status.st_size >> 20} MiB")
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise Refused("unreadable", f"read failed: {os.strerror(error.errno or 0)}") from None
    if len(data) > limit:
        raise Refused("too_large", "grew while it was read")
    return Content(data, hashlib.sha256(data).hexdigest())


def hash_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a file of any size, "" when it cannot be read."""
    digest = hashlib.sha256()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return ""
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()


def parse(content: Content) -> FileDataset:
    """Return the data set in `content`, complete and not expanded beyond reason.

    Raises Refused ("not_dicom", "encrypted", "directory", "expands", "truncated", "malformed").
    """
    data = content.data
    if not is_dicom(data):
        if encrypted(data):
            raise Refused("encrypted", "an encrypted container")
        raise Refused("not_dicom", "no DICOM header")
    try:
        _check_expansion(data)
        if data.count(_ITEM) > _MAX_ITEMS:
            raise Refused("expands", f"more than {_MAX_ITEMS:,} items")
        with quiet():
            dataset = read_partial(io.BytesIO(data), _too_many(), force=True)
            _check_complete(dataset, data)
    except BROKEN as error:
        kind = "truncated" if isinstance(error, EOFError) else "malformed"
        raise Refused(kind, f"the structure is broken: {type(error).__name__}") from None
    if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY:
        raise Refused("directory", "a DICOMDIR")
    return dataset


def _too_many() -> Callable[[BaseTag, str | None, int], bool]:
    """Return what the parser asks at each attribute. A gigabyte of zeros behind a file is a hundred
    million empty attributes, and would take minutes.
    """
    seen = count(1)

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        if next(seen) > _MAX_ATTRIBUTES:
            raise Refused("malformed", f"more than {_MAX_ATTRIBUTES:,} attributes")
        return False

    return stop


def _check_expansion(data: bytes) -> None:
    if DeflatedExplicitVRLittleEndian.encode() not in data:
        return
    file = io.BytesIO(data)
    with quiet():
        read_preamble(file, force=True)
        meta = _read_file_meta_info(file)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    limit = max(_MAX_EXPANSION, 20 * len(data))
    total, pending = 0, file.read()
    while pending and not inflate.eof:
        total += len(inflate.decompress(pending, _CHUNK))
        if total > limit:
            raise Refused("expands", f"more than {limit >> 20} MiB from {len(data) >> 10} KiB")
        pending = inflate.unconsumed_tail
    if not inflate.eof:
        raise Refused("truncated", "the deflated data set ends early")


def _check_complete(dataset: FileDataset, data: bytes) -> None:
    """See that each value is as long as its header said, and that nothing half-said is left."""
    elements = list(dataset.values())
    if not elements:
        raise Refused("truncated", "no attributes after the header")
    for element in elements:
        if (
            isinstance(element, RawDataElement)
            and element.length != 0xFFFFFFFF
            and len(element.value or b"") != element.length
        ):
            raise Refused("truncated", "a value ends before its length")
    last = elements[-1]
    deflated = dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    # pydicom takes fewer than 8 bytes, too few for one more header, as the end of the file.
    if (
        isinstance(last, RawDataElement)
        and last.length != 0xFFFFFFFF
        and not deflated
        and any(data[last.value_tell + last.length :])
    ):
        raise Refused("truncated", "the file ends inside an attribute's header")
    kind = UID_dictionary.get(str(dataset.get("SOPClassUID", "")).strip(" \0"), ("",))[0]
    if "Image Storage" in kind and not any(tag in dataset for tag in _PIXELS):
        raise Refused("truncated", "an image object without its pixels")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings and log lines, which quote values of a patient's file, unsaid."""
    before = config.logger.disabled
    config.logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.logger.disabled = before
