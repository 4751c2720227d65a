"""A dishonest coordinator's workshop: takes a real bundle apart and puts together another one."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from audit_study import ORIGIN, Evidence, Study

from wardround.privacy import canonical
from wardround.privacy.bundle import (
    CHECKPOINTS,
    COLUMNS,
    ENTRIES,
    MANIFEST,
    PROJECTIONS,
    Bundle,
    BundleWriter,
)
from wardround.privacy.events import Event, Leaf, from_leaf, statement_leaf
from wardround.privacy.identity import FileSigner
from wardround.privacy.notes import Checkpoint, Note, cosign, sign_checkpoint, witness_name
from wardround.privacy.statements import Body, sign
from wardround.privacy.transparency import leaf_hash, root_of
from wardround.privacy.verify import Policy, SavedReceipt, Verification, verify
from wardround.privacy.verify.projections import Projection, columns


class Forger:
    """A bundle in parts that can be changed; `study` lends the keys of whoever colludes."""

    def __init__(self, study: Study, evidence: Evidence) -> None:
        self.study, self.evidence = study, evidence
        with Bundle(evidence.bundle) as bundle:
            self.manifest = bundle.read(MANIFEST)
            self.leaves = list(bundle.lines(ENTRIES))
            self.columns = list(bundle.lines(COLUMNS))
            self.notes = [json.loads(line) for line in bundle.lines(CHECKPOINTS)]
            self.projections = bundle.read(PROJECTIONS)
            self.blobs = {
                name.removeprefix("blobs/"): bundle.read(name)
                for name in bundle._members
                if name.startswith("blobs/")
            }

    # -- finding one's way --------------------------------------------------------------------

    def find(self, kind: str, site: str = "", round: int = 0) -> int:
        """The first entry of a kind (and site, and round)."""
        return next(
            index
            for index, data in enumerate(self.leaves)
            if (leaf := from_leaf(data)).kind == kind
            and site in ("", leaf.site)
            and round in (0, leaf.round)
        )

    def leaf(self, index: int) -> Leaf:
        return from_leaf(self.leaves[index])

    # -- changing it --------------------------------------------------------------------------

    def edit(self, index: int, **fields: Any) -> None:
        """Change fields of what the coordinator asserts."""
        value = json.loads(self.leaves[index])
        value["event"].update(fields)
        self.leaves[index] = canonical.dumps(value)

    def stamp(self, index: int, ts_ms: int) -> None:
        """Give an entry another time."""
        value = json.loads(self.leaves[index])
        value["ts_ms"] = ts_ms
        self.leaves[index] = canonical.dumps(value)

    def restate(self, index: int, event: Event, signer: FileSigner | None = None) -> None:
        """Have a colluding site say something else, and sign all its later statements anew."""
        site = self.leaf(index).site
        signer = signer or self.study.members[site].identity
        previous = None
        for at in range(index, len(self.leaves)):
            leaf = self.leaf(at)
            if leaf.statement is None or leaf.site != site:
                continue
            statement = leaf.statement
            if at == index:
                statement = replace(statement, event=Body(event.to_json()))
            else:
                statement = replace(statement, previous=str(previous))
            envelope = sign(statement, signer)
            previous = envelope.digest()
            self.leaves[at] = statement_leaf(envelope, leaf.ts_ms, leaf.actor)

    def say(self, at: int, site: str, event: Event) -> int:
        """Have a colluding site say one thing more, at entry `at`; return that entry.

        All that the site says later is numbered and signed anew.
        """
        signer = self.study.members[site].identity
        before = next(leaf for n in reversed(range(at)) if (leaf := self.leaf(n)).site == site)
        assert before.statement is not None
        assert before.envelope is not None
        statement, envelope = before.statement, before.envelope
        later = [n for n in range(at, len(self.leaves)) if self.leaf(n).site == site]
        said = [(None, event.kind, Body(event.to_json()))]
        said += [
            (n, told.kind, told.event)
            for n in later
            if (told := self.leaf(n).statement) is not None
        ]
        for place, kind, body in said:
            statement = replace(
                statement,
                sequence=statement.sequence + 1,
                previous=envelope.digest(),
                kind=kind,
                event=body,
            )
            envelope = sign(statement, signer)
            if place is None:
                made = statement_leaf(envelope, self.leaf(at - 1).ts_ms)
            else:
                self.leaves[place] = statement_leaf(envelope, self.leaf(place).ts_ms)
        self.leaves.insert(at, made)
        return at

    def rederive(self) -> "Forger":
        """Make columns and summary fit the entries again."""
        projection = Projection()
        self.columns = []
        for index, data in enumerate(self.leaves):
            leaf = from_leaf(data)
            projection.add(index, leaf)
            self.columns.append(columns(index, leaf))
        self.projections = canonical.dumps(projection.to_json())
        manifest = canonical.loads_object(self.manifest)
        self.manifest = canonical.dumps({**manifest, "size": len(self.leaves)})
        return self

    def seal(self, cosigners: Iterable[str] = ("a", "b", "c", "d")) -> "Forger":
        """Sign every checkpoint anew, with the witness keys of those who collude."""
        hashes = [leaf_hash(data) for data in self.leaves]
        sizes = sorted({min(self.checkpoint(n).size, len(hashes)) for n in range(len(self.notes))})
        times = {self.checkpoint(n).size: self.times(n) for n in range(len(self.notes))}
        last = max(times)
        self.notes = [
            self.note(size, root_of(hashes[:size]), times.get(size, times[last]), cosigners)
            for size in sizes
        ]
        return self

    def note(self, size: int, root: bytes, times: dict[str, int], cosigners: Iterable[str]) -> str:
        """A checkpoint signed by the log and cosigned at the given times."""
        note = sign_checkpoint(Checkpoint(ORIGIN, size, root), self.study.signer)
        lines = [
            cosign(note.text, witness_name(ORIGIN, site), self.study.members[site].key, times[site])
            for site in cosigners
            if site in times
        ]
        return Note(note.text, (*note.signatures, *lines)).to_bytes().decode()

    def checkpoint(self, at: int) -> Checkpoint:
        return Checkpoint.from_text(Note.from_bytes(self.notes[at].encode()).text)

    def times(self, at: int) -> dict[str, int]:
        """When each site cosigned a checkpoint, in seconds."""
        note = Note.from_bytes(self.notes[at].encode())
        return {
            line.name.rpartition("/")[2]: int.from_bytes(line.body[:8], "big")
            for line in note.signatures
            if "/witness/" in line.name
        }

    # -- showing it to an auditor -------------------------------------------------------------

    def write(self, path: Path) -> Path:
        with BundleWriter(path) as bundle:
            bundle.add(MANIFEST, [self.manifest])
            bundle.add_lines(ENTRIES, self.leaves)
            bundle.add_lines(COLUMNS, self.columns)
            bundle.add_lines(CHECKPOINTS, [canonical.dumps(note) for note in self.notes])
            bundle.add(PROJECTIONS, [self.projections])
            for name, data in sorted(self.blobs.items()):
                bundle.add(f"blobs/{name}", [data])
        return path

    def verify(
        self,
        folder: Path,
        *,
        policy: str | None = None,
        pins: Iterable[bytes] = (),
        receipts: Iterable[SavedReceipt] = (),
        replay: bool = False,
        recompute: bool = False,
        every: bool = False,
    ) -> Verification:
        """What the verifier says; without pins unless a test gives one."""
        path = self.write(folder / "forged.zip")
        with Bundle(path) as bundle:
            return verify(
                bundle,
                Policy.from_text(policy or self.evidence.policy),
                pins=pins,
                receipts=receipts,
                replay=replay,
                recompute_epsilon=recompute,
                every_signature=every,
            )


def found(result: Verification, check: str, entry: int | None = None) -> bool:
    """Whether a finding of this check is there, about this entry when one is given."""
    return any(f.check == check and entry in (None, f.entry) for f in result.findings)
