"""Opening a file that nobody vouches for: inside its folder, ordinary, and not too large.

A link may lead to another patient's folder or to `/etc`; a pipe waits for ever; a sparse file of
4 GB fills the memory. All three are refused before a byte is read.
"""

import errno
import os
import stat
from pathlib import Path

from wardround.datasets.errors import FileRefused

MEBIBYTE = 2**20
_CMS = bytes.fromhex("06092a864886f70d0107")  # DER of the object identifiers of CMS (RFC 5652)
_CONTAINERS = (b"-----BEGIN", b"\x85\x02", b"Salted__", b"age-encryption.org")
MAX_SLICES = 5_000


def stamp(root: Path, relative: str) -> tuple[int, int]:
    """Return size in bytes and time of change (ns): whether a file is still the one seen before.

    Of a folder, the sum of sizes and the latest change of what is in it. What cannot be looked at
    has (-1, -1).
    """
    try:
        found = os.stat(root / relative)
        if stat.S_ISDIR(found.st_mode):
            inside = [os.stat(root / path) for path in files_of(root, relative)]
            return (
                sum(each.st_size for each in inside),
                max([found.st_mtime_ns, *(each.st_mtime_ns for each in inside)]),
            )
    except (OSError, ValueError, FileRefused):
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)


def files_of(root: Path, relative: str) -> list[str]:
    """Return what lies directly in the folder `root/relative`, but hidden files, by name.

    Raises FileRefused (`too-large` beyond `MAX_SLICES` files, `unreadable`).
    """
    try:
        names = sorted(n for n in os.listdir(root / relative) if not n.startswith("."))
    except (OSError, ValueError) as error:
        raise FileRefused(_code(error)) from None
    if len(names) > MAX_SLICES:
        raise FileRefused("too-large", f"{len(names):,} files")
    return [f"{relative}/{name}" for name in names]


def read_file(root: Path, relative: str, *, limit: int) -> bytes:
    """Return the content of `root/relative`, at most `limit` bytes.

    Raises FileRefused (`outside`, `not-a-file`, `empty`, `too-large`, `unreadable`, `missing`,
    `changed`, `encrypted`); the error carries no name.
    """
    try:
        real_root = os.path.realpath(root, strict=True)
        real = os.path.realpath(root / relative, strict=True)
        if os.path.commonpath([real_root, real]) != real_root:
            raise FileRefused("outside")
        # NONBLOCK: opening a pipe must not wait for a writer. NOFOLLOW: `real` is no link, unless
        # somebody has just put one there.
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        dangles = os.path.islink(root / relative) and _code(error) == "missing"
        raise FileRefused("outside" if dangles else _code(error)) from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise FileRefused("not-a-file")
    with os.fdopen(descriptor, "rb") as file:
        if found.st_size == 0:
            raise FileRefused("empty")
        if found.st_size > limit:
            raise FileRefused("too-large", f"{found.st_size // MEBIBYTE:,} MiB")
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise FileRefused(_code(error)) from None
    if len(content) != found.st_size:
        raise FileRefused("changed")
    if not is_dicom(content) and encrypted(content):
        raise FileRefused("encrypted")
    return content


def is_dicom(content: bytes) -> bool:
    """Tell whether a file begins as DICOM does."""
    if content[128:132] == b"DICM":
        return True
    # Old files begin with the first attribute of group 2 or 8, with no preamble; those of the other
    # byte order with its VR.
    if content[:3] in (b"\0\x02\0", b"\0\x08\0"):
        return content[4:6].isalpha() and content[4:6].isupper()
    return content[:2] in (b"\x02\0", b"\x08\0") and content[3:4] == b"\0" and len(content) > 16


def encrypted(content: bytes) -> bool:
    """Tell whether a file is a container of encrypted or signed content: CMS, PEM, OpenPGP (of the
    usual key sizes), OpenSSL's `enc`, age, or a ZIP file with a password.
    """
    locked = content[:4] == b"PK\x03\x04" and bool(content[6:7]) and bool(content[6] & 1)
    return locked or _CMS in content[:64] or content.startswith(_CONTAINERS)


def _code(error: OSError | ValueError) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "missing"
    if number == errno.ELOOP:
        return "outside"
    if number in (errno.ENXIO, errno.EISDIR):
        return "not-a-file"
    return "unreadable"
