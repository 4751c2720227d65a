"""`--replay`: every opened sum once more, from the retained masked uploads and logged shares.

The sum of masked vectors is rebuilt, the masks are reconstructed from the recovery shares, and
digest, weight and counters are compared with what the coordinator logged, and so is the model that
each sum led to. No single update comes to light: the shares of one attempt open its sum and nothing
else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from wardround.privacy.bundle import Bundle
from wardround.privacy.errors import BundleInvalid, PrivacyError
from wardround.privacy.events import Aggregated
from wardround.privacy.identity import Roster
from wardround.privacy.plan import StudyPlan
from wardround.privacy.secagg import (
    KeyBook,
    Quorum,
    Replayed,
    Ring,
    Shares,
    SignedRunSpec,
    Task,
    UploadHeader,
    decode,
    digest,
    replay,
)
from wardround.privacy.secagg.segments import ring_type
from wardround.privacy.verify.courses import Course
from wardround.privacy.verify.findings import Findings
from wardround.privacy.verify.rounds import Opened

MAX_HEADER = 2**20


@dataclass(slots=True)
class Replay:
    """Replays the aggregates of one bundle.

    `rosters` are, by run, the sites' keys as the log had them when the run began; `plans`, by
    digest, the study plans that the log holds. `models` are the entries of the aggregates from
    which the logged model was made again.
    """

    bundle: Bundle
    rosters: Mapping[str, Roster]
    plans: Mapping[str, StudyPlan]
    coordinator: bytes
    findings: Findings
    models: set[int] = field(default_factory=set)

    def all(self, opened: list[Opened]) -> frozenset[int]:
        """Replay each; return the entries of those that gave what was logged.

        Run after run, each in the order of the log, so that one model is held at a time.
        """
        done = set()
        for _, of_run in groupby(sorted(opened, key=_run), key=_run):
            course: Course | None = None
            for one in of_run:
                found = self._one(one)
                if found is None:
                    continue
                done.add(one.entry)
                plan = self.plans.get(one.run.plan_digest)
                if found.aggregate is None or plan is None:
                    continue
                course = course or Course(plan, self.findings)
                if course.follow(one, found.aggregate):
                    self.models.add(one.entry)
        return frozenset(done)

    def _one(self, one: Opened) -> Replayed | None:
        aggregate = one.aggregate
        missing = self._missing(one)
        if missing:
            self.findings.add("replay", one.entry, "retained uploads", missing, breaks=False)
            return None
        roster = self.rosters.get(one.run.run)
        if roster is None:
            self.findings.add("replay", one.entry, "the roster of the run", "other keys")
            return None
        try:
            spec = decode(SignedRunSpec, bytes.fromhex(one.run.run_spec))
            book = decode(KeyBook, bytes.fromhex(one.book))
            task = decode(Task, bytes.fromhex(one.attempt.start.task))
            quorum = decode(Quorum, bytes.fromhex(aggregate.quorum))
            shares = [
                decode(Shares, bytes.fromhex(share.shares))
                for _, share in sorted(one.attempt.shares.items())
            ]
            self._same(one, spec, task)
            found = replay(
                spec,
                self.coordinator,
                roster,
                book,
                task,
                self._uploads(one, spec),
                quorum.signatures,
                shares,
            )
        except BundleInvalid as error:
            self.findings.add("blob", one.entry, "the ciphertexts as logged", str(error))
            return None
        except PrivacyError as error:
            self.findings.add("replay", one.entry, "a sum that opens again", str(error))
            return None
        said: dict[str, object] = {
            "digest": aggregate.digest,
            "bytes": aggregate.size,
            "survivors": aggregate.survivors,
        }
        again: dict[str, object] = {
            "digest": found.digest,
            "bytes": found.size,
            "survivors": found.survivors,
        }
        headers = one.attempt.survivors.headers_digest if one.attempt.survivors else ""
        if headers:
            said["headers"], again["headers"] = headers, found.headers
        if found.aggregate is not None:
            said |= {"weight": aggregate.weight, "counters": _counters(aggregate)}
            again |= {
                "weight": found.aggregate.weight,
                "counters": ", ".join(f"{n} {v}" for n, v in found.aggregate.counters.items()),
            }
        for what, right in again.items():
            if said[what] != right:
                self.findings.add(
                    "replay", one.entry, f"{what} {right}, added up again", f"{said[what]}"
                )
        return found if said == again else None

    def _missing(self, one: Opened) -> str:
        messages = (one.run.run_spec, one.book, one.attempt.start.task, one.aggregate.quorum)
        if not all(messages):
            return "the log holds no messages to replay"
        for site in one.aggregate.survivors:
            update = one.attempt.uploads.get(site)
            if update is None:
                return f"no update of {site}"
            for blob in (update.digest, update.header_digest):
                if f"blobs/{blob}" not in self.bundle:
                    return f"the upload of {site} is not in the bundle (kept for some rounds only)"
        return ""

    def _same(self, one: Opened, spec: SignedRunSpec, task: Task) -> None:
        """The messages must be those of the entries that quote them."""
        run, start = one.run, one.attempt.start
        facts = (
            ("run spec", spec.spec.run, run.run),
            ("plan", spec.spec.study.hex(), run.plan_digest),
            ("roster", spec.spec.roster.hex(), run.roster_digest),
            ("dimension", spec.spec.dimension, run.dimension),
            ("ring bits", spec.spec.ring_bits, run.ring_bits),
            ("group mode", spec.spec.group_mode, run.group_mode),
            ("counters", spec.spec.counters, run.counters),
            ("rounds", spec.spec.rounds, run.rounds + 1),
            ("participants", spec.spec.participants, run.participants),
            ("colluders", spec.spec.colluders, run.colluders),
            ("threshold", spec.spec.threshold, run.threshold),
            ("smallest cohort", spec.spec.min_cohort, run.min_cohort),
            ("round", (task.round, task.attempt), (start.round, start.attempt)),
            ("model", task.model.hex(), start.model_digest),
            ("invited sites", task.participants, tuple(sorted(start.invited))),
            ("context", task.context.hex(), one.aggregate.context),
            ("spec digest", digest(spec.spec).hex(), run.run_spec_digest),
        )
        for what, said, logged in facts:
            if said != logged:
                self.findings.add("replay", one.entry, f"{what} {logged}", f"{said}")

    def _uploads(self, one: Opened, spec: SignedRunSpec) -> Iterator[tuple[UploadHeader, Ring]]:
        for site in one.aggregate.survivors:
            update = one.attempt.uploads[site]
            kind = ring_type(spec.spec.ring_bits)
            header = self.bundle.blob(update.header_digest, MAX_HEADER)
            vector = self.bundle.blob(update.digest, spec.spec.vector_length * kind.itemsize)
            if header is None or vector is None:
                raise BundleInvalid(f"the upload of {site} is gone")
            if len(vector) != update.size or len(vector) % kind.itemsize:
                raise BundleInvalid(f"the upload of {site} is not {update.size} bytes")
            yield decode(UploadHeader, header), np.frombuffer(vector, kind)


def _run(one: Opened) -> str:
    return one.run.run


def _counters(aggregate: Aggregated) -> str:
    return ", ".join(f"{one.name} {one.value}" for one in aggregate.counters)
