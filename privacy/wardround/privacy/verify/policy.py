"""The auditor's policy: the only place the verifier takes keys from.

    # comments and empty lines are skipped
    log example.org/wardround+5f0a1c2d+ASvK...
    site hospital-a identity hospital-a+77c1e0aa+AQ3f... witness <origin>/witness/hospital-a+...
    quorum 2
    clock-tolerance 300

Keys are in C2SP's verifier-key form. A site may have several lines (its keys were replaced, or
it was enrolled again); no key may stand in two. `quorum` is how many sites must have cosigned a
checkpoint, `clock-tolerance` how far clocks may differ, in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from wardround.privacy.errors import MalformedData, PolicyInvalid
from wardround.privacy.identity import Roster, check_site_name
from wardround.privacy.notes import log_id, read_verifier_key, verifier_key, witness_name

MAX_POLICY = 2**20
DEFAULT_TOLERANCE_S = 300


@dataclass(frozen=True, slots=True)
class SitePolicy:
    """The keys under which one site is known: identities, and witness keys, 32 bytes each."""

    identities: frozenset[bytes]
    witnesses: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Policy:
    """The log and the sites whose keys the auditor has from elsewhere, and how many must agree."""

    origin: str
    log_public: bytes
    sites: Mapping[str, SitePolicy]
    quorum: int
    tolerance_ms: int = DEFAULT_TOLERANCE_S * 1000

    @property
    def log(self) -> str:
        """The id that statements name the log by."""
        return log_id(self.origin, self.log_public)

    @classmethod
    def from_text(cls, text: str) -> "Policy":
        """Read a policy file; PolicyInvalid with the line that cannot be used."""
        if len(text) > MAX_POLICY:
            raise PolicyInvalid("the policy file is too large")
        log: tuple[str, bytes] | None = None
        numbers: dict[str, int] = {}
        rows: list[tuple[str, bytes, bytes]] = []
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            try:
                match words:
                    case ["log", key] if log is None:
                        log = read_verifier_key(key)
                    case ["site", site, "identity", identity, "witness", witness] if log:
                        rows.append(_site(log[0], site, identity, witness))
                    case ["quorum" | "clock-tolerance", count] if words[0] not in numbers:
                        numbers[words[0]] = int(count.encode("ascii"))
                    case _:
                        raise PolicyInvalid("it is not understood, stands twice, or before `log`")
            except (ValueError, MalformedData, PolicyInvalid) as error:
                raise PolicyInvalid(
                    f"line {number} of the policy cannot be used: {error}"
                ) from None
        if log is None or not rows or "quorum" not in numbers:
            raise PolicyInvalid("a policy names one log, its sites and a quorum")
        tolerance = numbers.get("clock-tolerance", DEFAULT_TOLERANCE_S)
        sites = _sites(rows)
        if not 1 <= numbers["quorum"] <= len(sites) or not 0 <= tolerance <= 86_400:
            raise PolicyInvalid(
                f"quorum must be 1 to {len(sites)}, clock-tolerance 0 to 86400 seconds"
            )
        return cls(*log, sites, numbers["quorum"], tolerance * 1000)


def write_policy(origin: str, log_public: bytes, roster: Roster, quorum: int) -> str:
    """Return a policy file for these keys.

    An auditor who trusts nobody gets each site's line from that site, not from one party.
    """
    lines = [f"log {verifier_key(origin, log_public)}"]
    for keys in roster.sites:
        lines.append(site_line(origin, keys.site, keys.identity, keys.witness))
    return "\n".join([*lines, f"quorum {quorum}", f"clock-tolerance {DEFAULT_TOLERANCE_S}", ""])


def site_line(origin: str, site: str, identity: bytes, witness: bytes) -> str:
    """Return a site's own line for an auditor's policy."""
    cosigner = verifier_key(witness_name(origin, site), witness, cosigner=True)
    return f"site {site} identity {verifier_key(site, identity)} witness {cosigner}"


def _site(origin: str, site: str, identity: str, witness: str) -> tuple[str, bytes, bytes]:
    check_site_name(site)
    name, identity_key = read_verifier_key(identity)
    cosigner, witness_key = read_verifier_key(witness, cosigner=True)
    if (name, cosigner) != (site, witness_name(origin, site)):
        raise PolicyInvalid(f"the keys are not named after {site}")
    return site, identity_key, witness_key


def _sites(rows: list[tuple[str, bytes, bytes]]) -> dict[str, SitePolicy]:
    keys = [key for _, *pair in rows for key in pair]
    if len(set(keys)) != len(keys):
        raise PolicyInvalid("one key stands in the policy twice")
    return {
        site: SitePolicy(
            frozenset(identity for name, identity, _ in rows if name == site),
            frozenset(witness for name, _, witness in rows if name == site),
        )
        for site in sorted({name for name, *_ in rows})
    }
