"""A whole study in memory: coordinator's log, sites' witnesses, secure aggregation, evidence."""

import hashlib
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import numpy as np
from sqlalchemy import Engine

from wardround.client.database import open_database as open_site
from wardround.client.witness import Witness
from wardround.privacy import plan as planning
from wardround.privacy.accounting import PrivacyEvent, epsilon
from wardround.privacy.events import (
    Access,
    Aggregated,
    Approval,
    Counter,
    Deidentification,
    Dropped,
    Enrol,
    Evaluation,
    Event,
    KeyBookMade,
    Mechanism,
    Metric,
    PrivacySpend,
    RecoveryShare,
    RoundEnd,
    RoundStart,
    RunEnd,
    RunStart,
    SiteDigest,
    Survivors,
    Update,
)
from wardround.privacy.identity import FileSigner, Roster, SiteKeys
from wardround.privacy.loghead import LogHead
from wardround.privacy.model import TensorLayout, initial_vector, model_digest
from wardround.privacy.optimiser import Optimiser
from wardround.privacy.plan import SignedPlan, StudyPlan
from wardround.privacy.plan_entry import plan_entry
from wardround.privacy.secagg import (
    Aggregator,
    Contribution,
    Participant,
    RunSpec,
    SignedRunSpec,
    digest,
    encode,
)
from wardround.privacy.statements import Envelope
from wardround.privacy.verify import write_policy
from wardround.server.audit import AuditLog
from wardround.server.blobs import BlobStore
from wardround.server.database import open_database
from wardround.server.evidence import write_bundle
from wardround.server.loglink import LogLink

ORIGIN = "wardround.example/study"
SITES = ("a", "b", "c", "d")
DELTA = "0.00001"
DELTA_VALUE = Decimal(DELTA)


def study_plan(sites: tuple[str, ...]) -> StudyPlan:
    """Return a plan of two training rounds over 40 numbers."""
    return StudyPlan(
        study=planning.Study("study-1", "Chest X-ray", "research", "Art. 9(2)(j)", "DPIA-7"),
        task=planning.Task("image-classification-2d", ("clear", "other"), (1, 8, 8)),
        model=planning.Model("small-cnn", 1, (TensorLayout("w", (40,)),)),
        training=planning.Training(2, "local_steps", 20, "sgd", Decimal("0.1")),
        privacy=planning.Privacy(
            "patient", "add-remove", Decimal(1), Decimal("1.1"), Decimal("0.05"), Decimal(8),
            DELTA_VALUE,
        ),
        secure_aggregation=planning.SecureAggregation(3, 1, 3, 1000, Decimal(1)),
        participants=planning.Participants(sites),
    )  # fmt: skip


class Clock:
    """Milliseconds that go on by one with each look, and by as much as a test likes."""

    def __init__(self, now: int = 1_800_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        self.now += 1
        return self.now


class Store:
    """A participant's state, kept in memory."""

    def save(self, state: bytes) -> None:
        self.saved = state


@dataclass
class Member:
    """A site: its keys, its witness of the log, the coordinator's link to it, its last head."""

    name: str
    identity: FileSigner
    key: FileSigner
    witness: Witness
    link: LogLink
    participant: Participant | None = None
    ledger: int = 0
    spent: list[PrivacyEvent] = field(default_factory=list)
    heads: list[LogHead] = field(default_factory=list)

    def sync(self) -> None:
        """One message each way: statements and cosignature up, checkpoint and receipts down."""
        self.link.receive(self.witness.head())
        head = self.link.head()
        self.witness.accept(head)
        self.heads.append(head)


@dataclass(frozen=True)
class Evidence:
    """What an auditor is given: the bundle, and from elsewhere a policy and a pin."""

    bundle: Path
    policy: str
    pin: bytes
    log_signer: FileSigner


class Study:
    """Four sites, tolerance of one colluder, threshold three: one may fall away."""

    def __init__(
        self, folder: Path, url: str | None = None, sites: tuple[str, ...] = SITES
    ) -> None:
        self.folder = folder
        self.clock = Clock()
        self.plan = study_plan(sites)
        self.signer = FileSigner.generate()
        self.engine: Engine = open_database(url or f"sqlite:///{folder}/log.db")
        self.blobs = BlobStore(folder / "blobs")
        self.log = AuditLog(self.engine, self.signer, ORIGIN, self.clock)
        self.members = {name: self._member(name) for name in sites}
        self.roster = Roster(
            tuple(
                SiteKeys(m.name, m.identity.public_bytes(), m.key.public_bytes(), m.name.encode())
                for m in self.members.values()
            )
        )
        self.vector = initial_vector(self.plan.model.tensors, self.plan.model.seed)
        self.optimiser = Optimiser(self.plan)
        self.uploads: dict[int, dict[str, SiteDigest]] = {}

    def _member(self, name: str) -> Member:
        identity, key = FileSigner.generate(), FileSigner.generate()
        engine = open_site(self.folder / f"{name}.db")
        public = self.signer.public_bytes()
        witness = Witness(engine, name, identity, key, ORIGIN, public, self.clock)
        return Member(name, identity, key, witness, LogLink(self.log, name))

    @property
    def model(self) -> str:
        return model_digest(self.vector)

    def close(self) -> None:
        self.engine.dispose()
        for member in self.members.values():
            member.witness.engine.dispose()

    def say(self, *events: Event | Envelope, actor: str = "") -> None:
        self.log.append(events, actor)

    def sync(self) -> None:
        for _ in range(2):  # the second brings each site's cosignature back
            for member in self.members.values():
                member.sync()

    def run_all(self) -> None:
        self.prepare()
        self.start_run()
        self.play_round(1)
        self.play_round(2, absent=("d",))
        self.play_round(3, purpose="evaluate")
        self.finish()

    def prepare(self) -> None:
        """Genesis, enrolments, plan and approvals."""
        self.log.begin("Coordinating Hospital", "wardround-0.1.0")
        for member, keys in zip(self.members.values(), self.roster.sites, strict=True):
            values = keys.identity.hex(), keys.witness.hex(), keys.supernode.hex()
            member.witness.statement(Enrol(member.name, *values, "Hospital", "wardround-0.1.0"))
            self.say(*member.witness.pending(), actor="officer-1")
            member.sync()
        self.say(plan_entry(self.plan, SignedPlan.sign(self.plan, self.signer)))
        counts = (("files_seen", 12), ("files_written", 10), ("duplicates", 0), ("quarantined", 2))
        for member in self.members.values():
            member.witness.statement(
                Deidentification(
                    "cohort-1", "DICOM PS3.15 Basic Profile", "2024b", (), "c" * 64, "d" * 64,
                    tuple(Counter(*count) for count in counts), "",
                )
            )  # fmt: skip
            member.witness.statement(
                Approval(
                    "study-1",
                    self.plan.digest(),
                    "officer-9",
                    ("cohort-1",),
                    "8",
                    DELTA,
                    "",
                    "",
                    "",
                )
            )
        self.sync()

    def start_run(self) -> None:
        """M0 to M4."""
        self.spec = SignedRunSpec.sign(
            RunSpec(
                "run-1",
                bytes.fromhex(self.plan.digest()),
                bytes.fromhex(self.roster.digest()),
                tuple(self.members),
                threshold=3,
                colluders=1,
                min_cohort=3,
                rounds=3,
                layout=(TensorLayout("w", (40,)),),
                clip=1.0,
                max_weight=1000,
                counters=("evaluated", "correct"),
            ),
            self.signer,
        )
        self.aggregator = Aggregator(self.spec, self.roster, self.signer)
        public = self.signer.public_bytes()
        parts = {
            name: Participant(self.spec, name, m.identity, self.roster, public, Store())
            for name, m in self.members.items()
        }
        for part in parts.values():
            self.aggregator.add_advert(part.advertise())
        book = self.aggregator.key_book()
        for part in parts.values():
            self.aggregator.add_ack(part.accept_book(book))
        for name, part in parts.items():
            part.confirm(self.aggregator.confirmation(name))
            self.members[name].participant = part
        spec, data = self.spec.spec, encode(book)
        self.say(
            RunStart(
                "run-1", "study-1", self.plan.digest(), self.roster.digest(), digest(spec).hex(),
                encode(self.spec).hex(), tuple(self.members), 2, 40, 32, 3, 1, 3, False,
                spec.counters, "wardround-0.1.0",
            ),
            KeyBookMade(
                "run-1", hashlib.sha256(data).hexdigest(), book.sites, len(data), data.hex()
            ),
        )  # fmt: skip
        self.sync()

    def play_round(self, number: int, absent: tuple[str, ...] = (), purpose: str = "train") -> None:
        """R1 to R7, each step logged in one transaction."""
        names = tuple(self.members)
        task = self.aggregator.task(number, 1, names, bytes.fromhex(self.model))
        context = task.context.hex()
        start = RoundStart("run-1", number, 1, purpose, self.model, 160, names, encode(task).hex())
        self.say(start, Access("flower", "PUSH", "/task", "allowed", 200, "", "run-1"))
        sent = 0
        for name in names:
            if name not in absent:
                sent += self._upload(name, number, task.context.hex(), purpose)
        self.sync()
        survivors = self.aggregator.survivors()
        dropped = tuple(Dropped(name, "upload", "no answer") for name in absent)
        headers = digest(self.aggregator.survivors_for(survivors[0]).set).hex()
        self.say(Survivors("run-1", number, 1, context, survivors, headers, dropped))
        for name in survivors:
            part = self.members[name].participant
            assert part is not None
            message = self.aggregator.survivors_for(name)
            self.aggregator.add_signature(part.accept_survivors(message))
        quorum = self.aggregator.quorum()
        for name in survivors:
            part = self.members[name].participant
            assert part is not None
            shares = part.release_shares(quorum)
            self.aggregator.add_shares(shares)
            self.members[name].witness.statement(
                RecoveryShare("run-1", number, 1, context, encode(shares).hex())
            )
        self.sync()
        result = self.aggregator.result()
        uploads = tuple(self.uploads[number][name] for name in survivors)
        before = self.model
        if result.weight:
            self.vector = self.optimiser.move(self.vector, result.mean)
        counters = tuple(Counter(n, v) for n, v in result.counters.items())
        accuracy = f"{result.counters['correct'] / result.counters['evaluated']:.4f}"
        self.say(
            Aggregated(
                "run-1", number, 1, context, result.digest, self.aggregator.opened().nbytes,
                uploads, survivors, result.weight, counters, self.model, encode(quorum).hex(),
            ),
            Evaluation("run-1", number, before, counters, (Metric("accuracy", accuracy),)),
            RoundEnd("run-1", number, 1, "completed", "", survivors, sent, 160 * len(names)),
        )  # fmt: skip
        self.sync()

    def _upload(self, name: str, number: int, context: str, purpose: str) -> int:
        member = self.members[name]
        part = member.participant
        assert part is not None
        task = self.aggregator._attempt().task
        values = np.random.default_rng(number).standard_normal(40).astype(np.float32) * 0.1
        weight = 0 if purpose == "evaluate" else 10
        upload, vector = part.begin_round(task, task.model, Contribution(values, weight, (9, 7)))
        self.aggregator.add(upload, vector)
        header, boxes = encode(upload.header), sum(map(len, upload.boxes))
        body = vector.tobytes()
        self.blobs.put(body)
        self.blobs.put(header)
        name_of = SiteDigest(name, hashlib.sha256(body).hexdigest(), len(body))
        self.uploads.setdefault(number, {})[name] = name_of
        member.witness.statement(
            Update(
                "run-1", number, 1, context, self.model, name_of.digest, len(body),
                hashlib.sha256(header).hexdigest(), len(header), boxes, 40, 32,
                "coordinator", "wardround-secagg-1",
            )
        )  # fmt: skip
        if purpose == "train":
            self._spend(member, number)
        return len(body) + len(header) + boxes

    def _spend(self, member: Member, number: int) -> None:
        before = epsilon(member.spent, DELTA_VALUE).text
        made = PrivacyEvent.gaussian(1.1, 0.05, 20, unit="patient", relation="add-remove")
        member.spent.append(made)
        member.ledger += 1
        mechanism = Mechanism(
            made.kind, made.sigma, made.sample_rate, made.steps, made.unit, made.relation,
            made.sampling,
        )  # fmt: skip
        priced = epsilon(member.spent, DELTA_VALUE)
        member.witness.statement(
            PrivacySpend(
                "run-1", "study-1", number, 1, "cohort-1", "patient", "add-remove", "1",
                (mechanism,), DELTA, before, priced.text, "", "8", priced.accountant,
                "dp-accounting 0.6.0", member.ledger, "", ("model weights of the last round",),
            )
        )  # fmt: skip

    def finish(self) -> None:
        """Closings, then the end of the run."""
        for member in self.members.values():
            member.witness.closing("run-1")
        self.sync()
        self.say(RunEnd("run-1", "completed", "", 3, self.model))
        self.sync()

    def evidence(self, name: str = "bundle.zip", quorum: int = 3) -> Evidence:
        """Write the bundle; the pin is what site a last witnessed."""
        path = write_bundle(self.engine, self.folder / name, "run-1", self.blobs)
        policy = write_policy(ORIGIN, self.signer.public_bytes(), self.roster, quorum)
        pin = self.members["a"].witness.pin()
        return Evidence(path, policy, pin, self.signer)
