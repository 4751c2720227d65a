"""The verifier as one function: a bundle and a policy in, a verdict out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from wardround.privacy import canonical
from wardround.privacy.bundle import (
    CHECKPOINTS,
    COLUMNS,
    ENTRIES,
    FORMAT,
    MANIFEST,
    PROJECTIONS,
    Bundle,
)
from wardround.privacy.errors import BundleInvalid, MalformedData
from wardround.privacy.notes import Checkpoint
from wardround.privacy.transparency import leaf_hash
from wardround.privacy.verify.checkpoints import Checkpoints, quorum_checkpoint
from wardround.privacy.verify.entries import EntryPass, check_compromised
from wardround.privacy.verify.epsilon import Recompute
from wardround.privacy.verify.findings import Findings, Verification
from wardround.privacy.verify.policy import Policy
from wardround.privacy.verify.receipts import SavedReceipt, check_receipts
from wardround.privacy.verify.replay import Replay
from wardround.privacy.verify.signatures import Signatures


def verify(
    bundle: Bundle,
    policy: Policy,
    *,
    pins: Iterable[bytes] = (),
    receipts: Iterable[SavedReceipt] = (),
    replay: bool = False,
    recompute_epsilon: bool = False,
    every_signature: bool = False,
    jobs: int = 1,
) -> Verification:
    """Check a bundle against the auditor's own policy, pins and receipts.

    Nothing in the bundle is believed. What is wrong or missing becomes a finding; the verdict
    is `status` of what is returned. Raises nothing for a bad bundle, only findings. Of each
    chain of statements the newest signature is checked, which vouches for all before it, and
    cosignatures of the newest checkpoints; `every_signature` checks each, with up to `jobs`
    processes (more than one asks for the guard `if __name__ == "__main__"` in the program).
    """
    work = _Work(bundle, policy, replay, recompute_epsilon, every_signature, jobs)
    try:
        return work.run(list(pins), list(receipts))
    except (BundleInvalid, MalformedData) as error:
        work.findings.add("bundle", None, "a bundle as a coordinator writes it", str(error))
        sites = tuple(policy.sites)
        return Verification(0, "", 0, sites, policy.quorum, (), False, work.findings.all())


@dataclass(slots=True)
class _Work:
    bundle: Bundle
    policy: Policy
    replay: bool
    recompute: bool
    every: bool
    jobs: int
    findings: Findings = field(default_factory=Findings)

    def run(self, pins: list[bytes], receipts: list[SavedReceipt]) -> Verification:
        manifest = self._manifest()
        checkpoints = Checkpoints(self.policy, self.findings, self.every)
        for line in self.bundle.lines(CHECKPOINTS):
            note = canonical.loads(line)
            if not isinstance(note, str):
                raise MalformedData("a checkpoint of the bundle is not text")
            checkpoints.read(note.encode())
        pinned = [p for data in pins if (p := checkpoints.read(data, pinned="pin")) is not None]

        sizes = {*checkpoints.notes, *(checkpoint.size for checkpoint in pinned)}
        wanted = {receipt.index: b"" for receipt in receipts}
        found = self._entries(self.every, wanted, sizes)
        if found.doubt and not self.every:
            found = self._entries(True, wanted, sizes)
        found.runs.finish()
        self.findings.absorb(found.findings)

        checkpoints.check_roots(found)
        counted = checkpoints.cosigners(found)
        size = quorum_checkpoint(counted, self.policy, found.tree.size, self.findings)
        held = self._pins(pinned, found)
        digests = {index: digest for index, digest in wanted.items() if digest}
        check_receipts(receipts, digests, self.policy, self.findings)
        self._closings(checkpoints, found)
        check_compromised(found, lambda: self.bundle.lines(ENTRIES), self.findings)
        self._projections(found)
        self._described(manifest, found)
        replayed, remade = self._replay(found)
        recomputed = (
            Recompute(self.findings).all(found.runs.ledgers.spends) if self.recompute else ()
        )

        shown = size or max(checkpoints.notes, default=0)
        times = counted.get(size, {}) if size else {}
        return Verification(
            size=shown,
            root=checkpoints.notes[shown][0].root.hex() if shown in checkpoints.notes else "",
            time_ms=max(times.values(), default=0) * 1000,
            witnesses=tuple(self.policy.sites),
            quorum=self.policy.quorum,
            cosigners=tuple(sorted(times)),
            pinned=held,
            findings=self.findings.all(),
            replayed=replayed,
            recomputed=recomputed,
            remade=remade,
            hidden=replayed & {one.entry for one in found.runs.rounds.opened if one.run.group_mode},
        )

    def _manifest(self) -> dict[str, canonical.Json]:
        manifest = canonical.loads_object(self.bundle.read(MANIFEST, 2**16))
        if manifest.get("format") != FORMAT:
            raise BundleInvalid(f"the bundle is not of the form {FORMAT}")
        if manifest.get("origin") != self.policy.origin:
            self.findings.add(
                "genesis", None, self.policy.origin, f"{manifest.get('origin')!a}"[:200]
            )
        return manifest

    def _described(self, manifest: dict[str, canonical.Json], found: EntryPass) -> None:
        """Check what the bundle says it is against what is in it."""
        run = manifest.get("run")
        right = {
            "format": FORMAT,
            "origin": manifest.get("origin"),
            "run": run if isinstance(run, str) else None,
            "size": found.tree.size,
        }
        if canonical.dumps(manifest) != canonical.dumps(right):
            self.findings.add("bundle", None, _short(right), _short(manifest))
        if isinstance(run, str) and run not in found.runs.runs:
            self.findings.add("run", None, "the run of the bundle", _short(run), breaks=False)
        for digest, entry in found.runs.rounds.blobs.items():
            if entry is None:
                self.findings.add(
                    "blob", None, "an update that names it", f"none of {digest}", breaks=False
                )
            if not self.bundle.holds(digest):
                self.findings.add("blob", entry, f"bytes of SHA-256 {digest}", "other bytes")

    def _entries(self, every: bool, wanted: dict[int, bytes], sizes: set[int]) -> EntryPass:
        signatures = Signatures(self.jobs) if every else None
        found = EntryPass(self.policy, signatures)
        found.runs.rounds.keep_opened, found.runs.ledgers.keep = self.replay, self.recompute
        found.runs.rounds.blobs = dict.fromkeys(self.bundle.blobs())
        try:
            found.run(self._watched(wanted), self.bundle.lines(COLUMNS), sizes)
        finally:
            if signatures is not None:
                signatures.stop()
        return found

    def _watched(self, wanted: dict[int, bytes]) -> Iterator[bytes]:
        """Give the leaves, noting the hashes of those that receipts are about."""
        for index, leaf in enumerate(self.bundle.lines(ENTRIES)):
            if index in wanted:
                wanted[index] = leaf_hash(leaf)
            yield leaf

    def _pins(self, pinned: list[Checkpoint], found: EntryPass) -> bool:
        if not pinned:
            self.findings.add(
                "pin", None, "a checkpoint kept outside (--pin)", "none", breaks=False
            )
        held = bool(pinned)
        for checkpoint in pinned:
            size = checkpoint.size
            if size > found.tree.size:
                what = f"only {found.tree.size} entries: the end was cut off"
            elif size and found.roots[size] != checkpoint.root:
                what = f"root {found.roots[size].hex()}: another history"
            else:
                continue
            held = False
            self.findings.add("pin", None, f"{size} entries, root {checkpoint.root.hex()}", what)
        return held

    def _closings(self, checkpoints: Checkpoints, found: EntryPass) -> None:
        """What a site says it witnessed last must be a checkpoint of this very log."""
        for entry, site, closing in found.runs.closings:
            size, known = closing.checkpoint_size, checkpoints.notes.get(closing.checkpoint_size)
            if size and (known is None or known[0].root.hex() != closing.checkpoint_root):
                self.findings.add(
                    "closing",
                    entry,
                    f"the checkpoint of {size} entries that {site} witnessed",
                    "none, or another root",
                )

    def _projections(self, found: EntryPass) -> None:
        """Compare the coordinator's summary with the one that follows from the entries."""
        right = canonical.dumps(found.projection.to_json())
        # Of a summary that is much too long no part is looked at: reading takes memory.
        limit = 2 * len(right) + 2**20
        data = self.bundle.read(PROJECTIONS, limit)
        if data == right:
            return
        said = canonical.loads_object(data, max_bytes=limit)
        derived = canonical.loads_object(right, max_bytes=limit)
        if said.keys() != derived.keys():
            self.findings.add("projection", None, _names(derived), _names(said))
        for table in sorted(said.keys() & derived.keys()):
            rows, wanted = _rows(said[table]), _rows(derived[table])
            for key in sorted(rows.keys() | wanted.keys()):
                row, want = rows.get(key, "no row"), wanted.get(key, "no row")
                if row != want:
                    self.findings.add("projection", None, f"{table} {key}: {want}"[:400], row[:300])

    def _replay(self, found: EntryPass) -> tuple[frozenset[int], frozenset[int]]:
        """Return the entries of the sums, and of the models, that were made again."""
        if not self.replay:
            if found.runs.rounds.first_opened is not None:
                self.findings.add(
                    "replay",
                    found.runs.rounds.first_opened,
                    "aggregates added up again (--replay)",
                    "not asked for",
                    breaks=False,
                )
            return frozenset(), frozenset()
        plans = found.runs.plans.read
        replay = Replay(self.bundle, found.rosters, plans, found.coordinator, self.findings)
        return replay.all(found.runs.rounds.opened), frozenset(replay.models)


def _names(tables: dict[str, canonical.Json]) -> str:
    return f"the tables {', '.join(sorted(tables))}"[:300]


def _rows(table: canonical.Json) -> dict[str, str]:
    """Return the rows of a table as text, in which 1 is not true and null is not missing."""
    if not isinstance(table, dict):
        return {"": canonical.dumps(table).decode()}
    return {key: canonical.dumps(row).decode() for key, row in table.items()}


def _short(value: canonical.Json) -> str:
    return canonical.dumps(value).decode()[:300]
