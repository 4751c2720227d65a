"""Receipts that sites keep, checked against a log that someone shows later.

A receipt file is canonical JSON: what the site says it is for (site, sequence, run, round) and
the proof: the checkpoint note, the leaf, its index and its audit path.
"""

from dataclasses import dataclass

from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData, ProofInvalid, SignatureInvalid
from wardround.privacy.events import from_leaf
from wardround.privacy.loghead import LeafText, NoteText, from_hex
from wardround.privacy.notes import Note, open_checkpoint
from wardround.privacy.records import Count, Hex32, MaybeName, Record, Site, Small
from wardround.privacy.transparency import leaf_hash, verify_inclusion
from wardround.privacy.verify.findings import Findings
from wardround.privacy.verify.policy import Policy


@dataclass(frozen=True, slots=True)
class SavedReceipt(Record):
    """Proof, kept by a site, that one statement of its own was in the log."""

    site: Site
    sequence: Count
    run: MaybeName
    round: Small
    note: NoteText
    index: Count
    leaf: LeafText
    proof: tuple[Hex32, ...]

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        return canonical.dumps(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> "SavedReceipt":
        """Read a receipt file; MalformedData for anything else."""
        return cls.from_json(canonical.loads(data))

    def check(self, policy: Policy) -> bytes:
        """Return the hash of the leaf it proves; ProofInvalid when it proves something else."""
        try:
            note = Note.from_bytes(self.note.encode())
            checkpoint = open_checkpoint(note, policy.origin, policy.log_public)
            leaf = from_leaf(self.leaf.encode("ascii"))
        except (MalformedData, SignatureInvalid) as error:
            raise ProofInvalid(str(error)) from None
        statement = leaf.statement
        said = self.site, self.sequence, self.run, self.round
        if statement is None or said != (leaf.site, statement.sequence, leaf.run, leaf.round):
            raise ProofInvalid("its entry is another statement, or of another round")
        digest = leaf_hash(self.leaf.encode("ascii"))
        verify_inclusion(self.index, checkpoint.size, digest, from_hex(self.proof), checkpoint.root)
        return digest


def check_receipts(
    receipts: list[SavedReceipt], digests: dict[int, bytes], policy: Policy, findings: Findings
) -> None:
    """Compare receipts with the log; `digests` are its leaf hashes at the receipts' indices."""
    for receipt in receipts:
        what = f"statement {receipt.sequence} of {receipt.site}"
        try:
            digest = receipt.check(policy)
        except ProofInvalid as error:
            findings.add("receipt", receipt.index, f"proof of {what}", str(error))
            continue
        if digests.get(receipt.index) != digest:
            found = "another entry" if receipt.index in digests else "the log ends before"
            findings.add("receipt", receipt.index, what, found)
