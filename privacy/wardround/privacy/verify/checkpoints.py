"""Signed checkpoints, cosignatures, pins and receipts, against the entries' own tree."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wardround.privacy.errors import MalformedData, SignatureInvalid
from wardround.privacy.notes import (
    Checkpoint,
    Note,
    key_hint,
    open_checkpoint,
    verify_cosignature,
    witness_name,
)
from wardround.privacy.verify.entries import EntryPass
from wardround.privacy.verify.findings import Findings
from wardround.privacy.verify.policy import Policy

RECENT = 1000
"""Of so many checkpoints, the newest, cosignatures are checked; of all on demand.

Who would hide an older cosignature leaves it out, which nobody can see; so older ones add nothing
to the quorum, only times, and there are many of them in a long log.
"""


@dataclass(slots=True)
class Checkpoints:
    """The checkpoints of a bundle whose log signature holds: by size, with the note's bytes."""

    policy: Policy
    findings: Findings
    every: bool = False
    notes: dict[int, tuple[Checkpoint, bytes]] = field(default_factory=dict)

    def read(self, data: bytes, pinned: str = "") -> Checkpoint | None:
        """Take in one note; None with a finding when the log's key did not sign it."""
        check = "pin" if pinned else "checkpoint"
        try:
            note = Note.from_bytes(data)
            checkpoint = open_checkpoint(note, self.policy.origin, self.policy.log_public)
        except (MalformedData, SignatureInvalid) as error:
            self.findings.add(check, None, f"a checkpoint of {self.policy.origin}", str(error))
            return None
        known = self.notes.get(checkpoint.size)
        if known is not None and known[0] != checkpoint:
            self.findings.add(
                check,
                checkpoint.size - 1,
                f"one root for {checkpoint.size} entries",
                f"two that the log's key signed: {known[0].root.hex()}, {checkpoint.root.hex()}",
            )
        if known is None and not pinned:
            self.notes[checkpoint.size] = checkpoint, data
        return checkpoint

    def check_roots(self, found: EntryPass) -> None:
        """Compare every signed root with the entries."""
        for size, (checkpoint, _) in sorted(self.notes.items()):
            if size > found.tree.size:
                self.findings.add(
                    "root", None, f"{size} entries, as signed", f"{found.tree.size} entries"
                )
            elif size and found.roots[size] != checkpoint.root:
                self.findings.add(
                    "root",
                    size - 1,
                    f"root {checkpoint.root.hex()} of {size} entries, as signed",
                    found.roots[size].hex(),
                )
        newest = max(self.notes, default=0)
        if newest < found.tree.size:
            self.findings.add(
                "uncovered",
                newest,
                f"a signed checkpoint of {found.tree.size} entries",
                f"the newest is of {newest}",
            )

    def cosigners(self, found: EntryPass) -> dict[int, dict[str, int]]:
        """Check every cosignature; return the times (s) of those that count, by size and site."""
        counted: dict[int, dict[str, int]] = {}
        sizes = sorted(self.notes)
        for size in sizes if self.every else sizes[-RECENT:]:
            counted[size] = self._lines(Note.from_bytes(self.notes[size][1]), size, found)
        self._rollbacks(counted)
        self._postdated(counted, found)
        return counted

    def _lines(self, note: Note, size: int, found: EntryPass) -> dict[str, int]:
        times: dict[str, int] = {}
        for site, policy in self.policy.sites.items():
            name = witness_name(self.policy.origin, site)
            keys = [(0, key) for key in sorted(policy.witnesses)]
            keys += found.witness_keys.get(site, [])
            hints = {key_hint(name, key, cosigner=True): key for since, key in keys if since < size}
            for line in note.signatures:
                if line.name != name:
                    continue
                entry = size - 1
                if line.key_id not in hints:
                    self.findings.add("cosignature", entry, f"a known key of {site}", "another key")
                    continue
                try:
                    time_s = verify_cosignature(note.text, line, name, hints[line.key_id])
                except SignatureInvalid as error:
                    self.findings.add("cosignature", entry, f"{site} signed this", str(error))
                    continue
                if site in times:
                    self.findings.add("cosignature", entry, f"{site} counts once", "a second line")
                elif size > found.retired.get(hints[line.key_id], size):
                    self.findings.add(
                        "revoked", entry, f"a key of {site} in force", "a key that was given up"
                    )
                else:
                    times[site] = time_s
        return times

    def _rollbacks(self, counted: Mapping[int, Mapping[str, int]]) -> None:
        newest: dict[str, tuple[int, int]] = {}
        for size, times in sorted(counted.items()):
            for site, time_s in times.items():
                larger, latest = newest.get(site, (0, 0))
                if time_s < latest:
                    self.findings.add(
                        "witness-rollback",
                        size - 1,
                        f"{site} signs {larger} entries at {latest} s, then more",
                        f"{size} entries at {time_s} s",
                    )
                newest[site] = size, max(time_s, latest)

    def _postdated(self, counted: Mapping[int, Mapping[str, int]], found: EntryPass) -> None:
        """No entry is later than any site's cosignature over it: each honest one is a witness."""
        told: set[str] = set()
        for size, times in sorted(counted.items()):
            for site, time_s in times.items():
                latest = time_s * 1000 + 999 + self.policy.tolerance_ms
                if size in found.times and found.times[size] > latest and site not in told:
                    told.add(site)
                    self.findings.add(
                        "time",
                        size - 1,
                        f"{latest} ms or earlier, by the cosignature of {site}",
                        f"{found.times[size]} ms",
                    )


def quorum_checkpoint(
    counted: Mapping[int, Mapping[str, int]], policy: Policy, size: int, findings: Findings
) -> int:
    """Return the size of the newest checkpoint that enough sites cosigned; 0 for none.

    Notes what they did not cosign of a log of `size` entries.
    """
    enough = [at for at, times in counted.items() if len(times) >= policy.quorum]
    newest = max(enough, default=0)
    if newest < size:
        findings.add(
            "quorum",
            newest,
            f"{policy.quorum} of {len(policy.sites)} sites cosigned all {size} entries",
            f"they cosigned {newest}",
            breaks=False,
        )
    return newest
