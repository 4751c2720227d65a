"""The evidence bundle: one zip with all that an auditor needs except the keys.

    manifest.json       format, origin, size, run: what the writer says it is
    entries.jsonl       every leaf of the log, its exact bytes, one a line
    columns.jsonl       per entry the columns that the coordinator's database keeps beside it
    checkpoints.jsonl   every signed checkpoint with its cosignatures, one note a line (JSON text)
    projections.json    the coordinator's own summary, which the verifier derives again
    blobs/<sha256>      retained ciphertexts: masked uploads and their headers

A bundle comes from someone who is not trusted. Reading bounds the number, the names and the size
of members and the ratio of compression, and never unpacks to disk. Writing is deterministic: the
same content gives the same bytes.
"""

import hashlib
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from wardround.privacy.errors import BundleInvalid

FORMAT = "wardround-evidence-1"
MANIFEST, ENTRIES, COLUMNS = "manifest.json", "entries.jsonl", "columns.jsonl"
CHECKPOINTS, PROJECTIONS = "checkpoints.jsonl", "projections.json"

MAX_MEMBERS = 100_000
MAX_MEMBER = 2**33
MAX_TOTAL = 2**36
MAX_RATIO = 200
MAX_LINE = 2**20 + 2**10
_FIXED = (MANIFEST, ENTRIES, COLUMNS, CHECKPOINTS, PROJECTIONS)
_NAME = re.compile(r"(?:manifest|projections)\.json|(?:entries|columns|checkpoints)\.jsonl")
_BLOB = re.compile(r"blobs/[0-9a-f]{64}")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK = 2**20
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, OverflowError,
    NotImplementedError,
)  # fmt: skip
"""What `zipfile` raises for a file that is no zip file, or is damaged."""


@dataclass(slots=True)
class BundleWriter:
    """Writes a bundle; the members must come in the order of the table above."""

    path: Path
    _zip: zipfile.ZipFile = field(init=False, repr=False)
    _last: tuple[int, str] = (-1, "")

    def __post_init__(self) -> None:
        self._zip = zipfile.ZipFile(self.path, "x", zipfile.ZIP_DEFLATED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._zip.close()
        if kind is not None:
            self.path.unlink()

    def add(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write one member from its parts."""
        blob = bool(_BLOB.fullmatch(name))
        if not blob and not _NAME.fullmatch(name):
            raise BundleInvalid(f"{name[:80]!a} is not a member of an evidence bundle")
        place = (len(_FIXED), name) if blob else (_FIXED.index(name), name)
        if place <= self._last:
            raise BundleInvalid(f"{name} comes too late; members are written in their order")
        self._last = place
        info = zipfile.ZipInfo(name, _EPOCH)
        # Ciphertext does not shrink; text does.
        info.compress_type = zipfile.ZIP_STORED if blob else zipfile.ZIP_DEFLATED
        info.external_attr = 0o600 << 16
        info.create_system = 3
        with self._zip.open(info, "w", force_zip64=True) as member:
            for chunk in chunks:
                member.write(chunk)

    def add_lines(self, name: str, lines: Iterable[bytes]) -> None:
        """Write a member of one text a line; none may hold a newline."""
        self.add(name, (line + b"\n" for line in lines))


@dataclass(slots=True)
class Bundle:
    """An evidence bundle opened for reading; everything in it is only claimed."""

    path: Path
    _zip: zipfile.ZipFile = field(init=False, repr=False)
    _members: dict[str, zipfile.ZipInfo] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            self._zip = zipfile.ZipFile(self.path)
        except FileNotFoundError:
            raise BundleInvalid(f"{self.path.name} does not exist") from None
        except _UNREADABLE:
            raise BundleInvalid(f"{self.path.name} is not a zip file") from None
        try:
            self._members = _checked(self._zip.infolist())
        except BundleInvalid:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str, limit: int = 2**26) -> bytes:
        """Return a member of at most `limit` bytes; BundleInvalid when missing or too large."""
        return b"".join(self.stream(name, limit))

    def stream(self, name: str, limit: int = MAX_MEMBER) -> Iterator[bytes]:
        """Give a member in parts; BundleInvalid when missing, damaged or over `limit`."""
        info = self._members.get(name)
        if info is None:
            raise BundleInvalid(f"the bundle has no {name}")
        if info.file_size > limit:
            raise BundleInvalid(f"{name} has {info.file_size} bytes; at most {limit} are read")
        try:
            with self._zip.open(info) as member:
                while chunk := member.read(_CHUNK):
                    yield chunk
        except _UNREADABLE as error:
            raise BundleInvalid(f"{name} is damaged: {str(error)[:80]!a}") from None
        except RuntimeError:
            raise BundleInvalid(f"{name} is encrypted") from None

    def lines(self, name: str) -> Iterator[bytes]:
        """Give a member line by line, without newlines; BundleInvalid for an endless line."""
        rest = b""
        for chunk in self.stream(name):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
            if len(rest) > MAX_LINE:
                raise BundleInvalid(f"{name} has a line of more than {MAX_LINE} bytes")
        if rest:
            raise BundleInvalid(f"{name} does not end with a newline")

    def blobs(self) -> Iterator[str]:
        """Give the digests that the blobs are named after."""
        return (name.removeprefix("blobs/") for name in self._members if name not in _FIXED)

    def holds(self, digest: str) -> bool:
        """Return whether the blob of this digest is made of the bytes it is named after."""
        found = hashlib.sha256()
        for chunk in self.stream(f"blobs/{digest}"):
            found.update(chunk)
        return found.hexdigest() == digest

    def blob(self, digest: str, limit: int = MAX_MEMBER) -> bytes | None:
        """Return the blob of this digest, None when the bundle has none.

        Raises BundleInvalid when the bytes under that name are others.
        """
        name = f"blobs/{digest}"
        if name not in self._members:
            return None
        data = self.read(name, limit)
        if hashlib.sha256(data).hexdigest() != digest:
            raise BundleInvalid(f"{name} does not hold the bytes it is named after")
        return data


def _checked(infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Refuse what no bundle holds, before anything is read."""
    if len(infos) > MAX_MEMBERS:
        raise BundleInvalid(f"the bundle has {len(infos)} members; at most {MAX_MEMBERS}")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename
        if not _NAME.fullmatch(name) and not _BLOB.fullmatch(name):
            raise BundleInvalid(f"the bundle has a member {name[:80]!a}, which no bundle has")
        if name in members:
            raise BundleInvalid(f"the bundle has {name} twice")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleInvalid(f"{name} is compressed in a way that is not read")
        if info.file_size > MAX_MEMBER or info.file_size > 2**20 + MAX_RATIO * info.compress_size:
            raise BundleInvalid(f"{name} would unpack to {info.file_size} bytes; refused")
        members[name] = info
    if sum(info.file_size for info in infos) > MAX_TOTAL:
        raise BundleInvalid(f"the bundle would unpack to more than {MAX_TOTAL} bytes; refused")
    return members
