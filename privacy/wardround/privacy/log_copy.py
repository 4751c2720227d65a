"""A site's copy of the log in one file, from which a coordinator takes back what it lost.

    {"format": "wardround-log-copy-1", "site": ..., "pin": ...}     canonical JSON, the first line
    every leaf from entry 0 on, its exact bytes, one a line

Nothing in it is believed: the coordinator checks its own signature under the pin, and that the
entries lead to that very root.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData
from wardround.privacy.identity import check_site_name

FORMAT = "wardround-log-copy-1"


@dataclass(frozen=True, slots=True)
class LogCopy:
    """The copy of `site`: the checkpoint it cosigned last, and all entries it holds."""

    site: str
    pin: bytes
    leaves: tuple[bytes, ...] = field(repr=False)


def write_log_copy(path: Path, site: str, pin: bytes, leaves: Iterable[bytes]) -> None:
    """Write a copy to `path`, which must not exist (FileExistsError)."""
    head = canonical.dumps({"format": FORMAT, "site": site, "pin": pin.decode("utf-8")})
    with path.open("xb") as file:
        file.write(head + b"\n")
        file.writelines(leaf + b"\n" for leaf in leaves)


def read_log_copy(path: Path) -> LogCopy:
    """Read a copy; MalformedData for a file that `write_log_copy` did not write."""
    first, *leaves = path.read_bytes().removesuffix(b"\n").split(b"\n")
    head = canonical.loads_object(first)
    if set(head) != {"format", "site", "pin"} or head["format"] != FORMAT:
        raise MalformedData(f"{path.name} is not a copy of the log; make one at the site")
    return LogCopy(check_site_name(str(head["site"])), str(head["pin"]).encode(), tuple(leaves))
