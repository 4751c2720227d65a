"""One attempt at a round: from the task to the shares that open its sum (R1 to R6)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wardround.privacy.conversation import Kind
from wardround.privacy.errors import MalformedData
from wardround.privacy.events import Dropped, RoundStart, SiteDigest
from wardround.privacy.events import Survivors as SurvivorsLogged
from wardround.privacy.plan import StudyPlan
from wardround.privacy.run_spec import exchange_rounds
from wardround.privacy.secagg.aggregator import Aggregator
from wardround.privacy.secagg.codec import decode, digest, encode
from wardround.privacy.secagg.messages import Shares, SurvivorSignature, Task, Upload
from wardround.privacy.secagg.segments import ring_type
from wardround.server.asking import Asking
from wardround.server.audit import AuditLog
from wardround.server.blobs import BlobStore


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a round of a run; every step of it is logged."""

    run: str
    plan: StudyPlan
    log: AuditLog
    uploads: BlobStore
    sites: Asking
    aggregator: Aggregator

    def start(self, task: Task, size: int) -> None:
        """Log that a round begins; `size` is that of the model in bytes."""
        last = task.round == exchange_rounds(self.plan)
        purpose = "evaluate" if last else "train"
        self.log.append(
            [
                RoundStart(
                    *(self.run, task.round, task.attempt, purpose, task.model.hex(), size),
                    task.participants,
                    encode(task).hex(),
                )
            ]
        )

    def open(self, task: Task, model: bytes | None) -> tuple[SiteDigest, ...]:
        """R1 to R6; return whose uploads are in the sum, which `aggregator` can open then.

        `model` goes along with the task, None where the sites have it. Raises PrivacyError when
        too few sites answer, or not as they must.
        """
        uploads = self._collect(task, model)
        survivors = self.aggregator.survivors()
        self._log_survivors(task, survivors)
        self._sign(survivors)
        self._recover(survivors)
        return tuple(upload for upload in uploads if upload.site in survivors)

    def _collect(self, task: Task, model: bytes | None) -> list[SiteDigest]:
        """R1, R2: hand out the task; add each masked vector as it comes, and keep it as a blob."""
        kind = ring_type(self.plan.secure_aggregation.ring_bits)
        parts = {
            site: {"task": encode(task), "confirmation": encode(self.aggregator.confirmation(site))}
            for site in task.participants
        }
        uploads: list[SiteDigest] = []
        for site, answer, data in self.sites.ask(Kind.TASK, parts, "upload", model):
            with self.sites.taking(site, "upload"):
                if data is None:
                    raise MalformedData("the answer brings no masked vector")
                upload = decode(Upload, answer.part("upload"))
                self.aggregator.add(upload, np.frombuffer(data, dtype=kind))
                self.uploads.put(encode(upload.header))
                uploads.append(SiteDigest(upload.header.site, self.uploads.put(data), len(data)))
        return uploads

    def _log_survivors(self, task: Task, survivors: tuple[str, ...]) -> None:
        why: Mapping[str, tuple[str, str]] = self.sites.why
        dropped = tuple(
            Dropped(site, *why.get(site, ("upload", "no upload")))
            for site in task.participants
            if site not in survivors
        )
        headers = digest(self.aggregator.survivors_for(survivors[0]).set).hex()
        place = self.run, task.round, task.attempt, task.context.hex()
        self.log.append([SurvivorsLogged(*place, survivors, headers, dropped)])

    def _sign(self, survivors: tuple[str, ...]) -> None:
        """R3, R4."""
        parts = {s: {"survivors": encode(self.aggregator.survivors_for(s))} for s in survivors}
        for site, answer, _ in self.sites.ask(Kind.SURVIVORS, parts, "survivors"):
            with self.sites.taking(site, "survivors"):
                self.aggregator.add_signature(decode(SurvivorSignature, answer.part("signature")))

    def _recover(self, survivors: tuple[str, ...]) -> None:
        """R5, R6."""
        parts = {"quorum": encode(self.aggregator.quorum())}
        for site, answer, _ in self.sites.ask(Kind.OPEN, dict.fromkeys(survivors, parts), "open"):
            with self.sites.taking(site, "open"):
                self.aggregator.add_shares(decode(Shares, answer.part("shares")))
