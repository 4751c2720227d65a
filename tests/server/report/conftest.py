"""A run of four sites and four rounds, made by hand: a drop-out, refusals, a fault, a retry."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from wardround.privacy import events
from wardround.privacy.events import Event, statement_leaf, to_leaf
from wardround.privacy.identity import FileSigner
from wardround.privacy.model import TensorLayout
from wardround.privacy.plan import (
    Model,
    Participants,
    Privacy,
    SecureAggregation,
    Study,
    StudyPlan,
    Task,
    Training,
)
from wardround.privacy.statements import FIRST, Body, Statement, sign
from wardround.privacy.transparency import CompactRange, leaf_hash
from wardround.server.report import Finding, RunReport, Verification, build_report

SITES = ("east", "north", "south", "west")
START = 1_790_000_000_000
RUN, STUDY = "run-7f3a", "chest-xray"
SIZE = 4 * 61_000


def digest(text: str) -> str:
    """Return a digest that stands for something."""
    return hashlib.sha256(text.encode()).hexdigest()


def example_plan() -> StudyPlan:
    """Return a plan of four sites and four rounds, which a fifth one evaluates."""
    return StudyPlan(
        study=Study(
            STUDY,
            "Pneumonia on chest radiographs",
            "Train a model that points a radiologist to likely pneumonia",
            "Research with ethics approval EK-2026/114; GDPR Art. 9(2)(j)",
            "DPIA-2026-07",
        ),
        task=Task("image-classification-2d", ("normal", "pneumonia"), (1, 64, 64)),
        model=Model("small-cnn", 7, (TensorLayout("weight", (60_000,)),)),
        training=Training(4, "local_steps", 20, "adamw", Decimal("0.001")),
        privacy=Privacy(
            "patient", "add-remove", Decimal(1), Decimal("1.1"), Decimal("0.02"), Decimal(4),
            Decimal("0.00001"),
        ),
        secure_aggregation=SecureAggregation(3, 1, 3, 100_000, Decimal(4)),
        participants=Participants(SITES),
    )  # fmt: skip


@dataclass
class LogMaker:
    """Appends leaves as a coordinator would, with real signatures of sites."""

    leaves: list[bytes] = field(default_factory=list)
    signers: dict[str, FileSigner] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    previous: dict[str, str] = field(default_factory=dict)
    time: int = START

    def say(self, event: Event, actor: str = "") -> int:
        """Append what the coordinator asserts."""
        self.time += 7_000
        self.leaves.append(to_leaf(event, self.time, actor))
        return len(self.leaves) - 1

    def sign(self, site: str, event: Event, actor: str = "") -> int:
        """Append a site's statement."""
        self.time += 3_000
        signer = self.signers.setdefault(site, FileSigner.generate())
        number = self.sequences[site] = self.sequences.get(site, 0) + 1
        envelope = sign(
            Statement(
                digest("log"), site, number, self.previous.get(site, FIRST), self.time, event.kind,
                Body(event.to_json()),
            ),
            signer,
        )  # fmt: skip
        self.previous[site] = envelope.digest()
        self.leaves.append(statement_leaf(envelope, self.time, actor))
        return len(self.leaves) - 1


def enrol(log: LogMaker, site: str, organisation: str) -> None:
    """Enrol a site under a fresh key."""
    signer = log.signers.setdefault(site, FileSigner.generate())
    identity = signer.public_bytes().hex()
    log.sign(
        site,
        events.Enrol(
            site, identity, digest(f"w{site}"), "aa" * 60, organisation, "wardround 0.1.0"
        ),
        "p-41c9",
    )


def planned(plan: StudyPlan, **changes: str) -> events.StudyPlanned:
    """Return the log entry of a plan; `changes` replace its one-line texts."""
    return events.StudyPlanned(
        study=plan.study.id,
        plan_digest=plan.digest(),
        plan=plan.canonical().decode(),
        signature="ab" * 64,
        title=changes.get("title", plan.study.title),
        purpose=changes.get("purpose", plan.study.purpose),
        legal_basis=changes.get("legal_basis", plan.study.legal_basis),
        dpia=changes.get("dpia", plan.study.dpia),
        task=plan.task.kind,
        model=plan.model.name,
        participants=plan.participants.sites,
        rounds=plan.training.rounds,
        mode=plan.training.mode,
        unit=plan.privacy.unit,
        relation=plan.privacy.relation,
        clip="1",
        noise_multiplier="1.1",
        sample_rate="0.02",
        target_epsilon="4",
        delta="0.00001",
        shared_noise=False,
        threshold=3,
        colluders=1,
        min_cohort=3,
    )


BEFORE = {"east": "3", "north": "0", "south": "1.25", "west": "0.4"}


class RunMaker:
    """Writes the entries of one run, round by round."""

    def __init__(self, log: LogMaker, plan: StudyPlan, unit: str = "patient") -> None:
        self.log, self.plan, self.unit = log, plan, unit
        self.epsilon = {site: Decimal(value) for site, value in BEFORE.items()}
        self.ledger = dict.fromkeys(SITES, 0)
        self.sent = dict.fromkeys(SITES, 0)
        self.updates = dict.fromkeys(SITES, 0)
        self.aggregates: list[int] = []
        self.spends: list[tuple[int, str]] = []
        self.paid: set[tuple[str, int]] = set()

    def start(self) -> None:
        """Write the start of the run."""
        self.log.say(
            events.RunStart(
                RUN, STUDY, self.plan.digest(), digest("roster"), digest("spec"), "00", SITES, 4,
                60_000, 32, 3, 1, 3, False, ("correct", "evaluated"), "wardround 0.1.0",
            )
        )  # fmt: skip
        self.log.say(events.KeyBookMade(RUN, digest("book"), SITES, 4_321))

    def round(
        self, number: int, attempt: int, joined: tuple[str, ...], dropped: dict[str, str]
    ) -> None:
        """Write one attempt; it completes when at least three sites remain."""
        log, purpose = self.log, "evaluate" if number == 5 else "train"
        log.say(
            events.RoundStart(RUN, number, attempt, purpose, digest(f"model{number}"), SIZE, SITES)
        )
        context = digest(f"context{number}.{attempt}")
        for site in joined:
            self._update(site, number, attempt, context)
            if purpose == "train" and (site, number) not in self.paid:
                self._spend(site, number)
        survivors = tuple(site for site in joined if site not in dropped)
        done = len(survivors) >= 3
        log.say(
            events.Survivors(
                RUN, number, attempt, context, survivors if done else (), digest("headers"),
                tuple(events.Dropped(s, "upload", why) for s, why in dropped.items()),
            )
        )  # fmt: skip
        if done:
            self._open(number, attempt, context, survivors)
        log.say(
            events.RoundEnd(
                RUN, number, attempt, "completed" if done else "aborted",
                "" if done else "fewer sites than the smallest cohort", joined,
                len(joined) * (SIZE + 1_300), len(SITES) * (SIZE + 900),
            )
        )  # fmt: skip

    def _update(self, site: str, number: int, attempt: int, context: str) -> None:
        self.log.sign(
            site,
            events.Update(
                RUN, number, attempt, context, digest(f"model{number}"),
                digest(f"y{site}{number}"), SIZE, digest(f"h{site}{number}"), 412, 888, 60_000, 32,
                "coordinator", "TLS 1.3 + masked sum",
            ),
        )  # fmt: skip
        self.updates[site] += 1
        self.sent[site] += SIZE + 412 + 888

    def _spend(self, site: str, number: int) -> None:
        before, after = self.epsilon[site], self.epsilon[site] + Decimal("0.271828")
        self.epsilon[site] = after
        self.ledger[site] += 1
        self.paid.add((site, number))
        mechanism = events.Mechanism(
            "gaussian", "1.1", "0.02", 20, self.unit, "add-remove", "poisson"
        )
        index = self.log.sign(
            site,
            events.PrivacySpend(
                RUN, STUDY, number, 1, "ds-51f0", self.unit, "add-remove", "1", (mechanism,),
                "0.00001", str(before), str(after), str(after - Decimal(BEFORE[site])), "4", "pld",
                "dp-accounting 0.6.0", self.ledger[site], "",
                ("number of samples, inside the masked sum",),
            ),
        )  # fmt: skip
        self.spends.append((index, str(after)))

    def _open(self, number: int, attempt: int, context: str, survivors: tuple[str, ...]) -> None:
        for site in survivors:
            self.log.sign(site, events.RecoveryShare(RUN, number, attempt, context, "00" * 64))
        uploads = tuple(
            events.SiteDigest(site, digest(f"y{site}{number}"), SIZE) for site in survivors
        )
        counters = (events.Counter("correct", 600 + 31 * number), events.Counter("evaluated", 900))
        self.aggregates.append(
            self.log.say(
                events.Aggregated(
                    RUN, number, attempt, context, digest(f"sum{number}"), SIZE, uploads,
                    survivors, 1_480 * len(survivors), counters, digest(f"model{number + 1}"),
                )
            )
        )  # fmt: skip
        accuracy = events.Metric("accuracy", f"0.{7_000 + 350 * number}")
        self.log.say(
            events.Evaluation(RUN, number, digest(f"model{number}"), counters, (accuracy,))
        )

    def close(self, sites: tuple[str, ...] = SITES) -> None:
        """Write closing statements and the end of the run."""
        size = len(self.log.leaves)
        for site in sites:
            self.log.sign(
                site,
                events.Closing(
                    RUN, self.log.sequences[site], size, digest("root"), self.updates[site],
                    self.sent[site],
                ),
            )  # fmt: skip
        self.log.say(events.RunEnd(RUN, "completed", "", 5, digest("model6")))


def write_run(unit: str = "patient", **texts: str) -> tuple[list[bytes], RunMaker]:
    """Return the leaves of the example run; `texts` replace texts of plan and sites."""
    log, plan = LogMaker(), example_plan()
    log.say(
        events.Genesis(
            "log.wardround.example/study", digest("key"), "", "Example Trust", "wardround 0.1.0"
        )
    )
    for site in (*SITES, "abbey"):
        enrol(log, site, texts.get("organisation", f"Hospital {site.title()}"))
    log.say(planned(plan, **texts), "p-0d17")
    for site in SITES:
        log.sign(
            site,
            events.Approval(
                STUDY, plan.digest(), "p-5e02", ("ds-51f0",), "4", "0.00001", digest("policy"),
                texts.get("legal_basis", "Hospital ethics board 2026/88"), "DPIA-2026-07",
            ),
        )  # fmt: skip
        log.sign(
            site,
            events.Deidentification(
                "ds-51f0", "DICOM PS3.15 Basic Profile", "2024b", ("retain_modified_dates",),
                digest(f"manifest{site}"), digest(f"report{site}"),
                tuple(
                    events.Counter(name, value)
                    for name, value in (
                        ("files_seen", 2152), ("files_written", 2140), ("duplicates", 0),
                        ("quarantined", 12), ("emptied", 41_730), ("uids_replaced", 8560),
                        ("quarantined_burned_in_pixels", 12),
                    )
                ),
                texts.get("notes", "Faces do not occur in this kind of image"),
            ),
        )  # fmt: skip
    log.sign(
        "abbey",
        events.Refusal(STUDY, plan.digest(), "", 0, 0, "purpose", "Commercial use is not excluded"),
    )
    run = RunMaker(log, plan, unit)
    run.start()
    run.round(1, 1, SITES, {})
    run.round(2, 1, SITES, {"west": "no recovery share within 60 s"})
    log.say(
        events.Fault(
            RUN, 3, 1, "north", "task", texts.get("what", "connection reset while sending")
        )
    )
    run.round(3, 1, ("east", "south"), {"north": "connection lost", "west": "too late"})
    run.round(3, 2, SITES, {})
    log.sign(
        "east",
        events.Refusal(
            STUDY, plan.digest(), RUN, 4, 1, "budget",
            texts.get("reason", "the round would spend more than the budget of ds-51f0"),
        ),
    )  # fmt: skip
    run.round(4, 1, ("north", "south", "west"), {"east": "refused"})
    run.round(5, 1, SITES, {})
    run.close(("east", "north", "south"))
    for path, outcome, status in (
        ("/studies/{id}", "allowed", 200), ("/studies/{id}", "allowed", 200),
        ("/runs/{id}/bundle", "denied", 403),
    ):  # fmt: skip
        log.say(events.Access("http", "GET", path, outcome, status, "researcher", RUN), "p-77aa")
    log.say(events.Export("bundle", "zip", digest("bundle"), 1_234_567, RUN, "auditor"), "p-77aa")
    return log.leaves, run


def root_of(leaves: list[bytes], size: int) -> str:
    """Return the Merkle root of the first leaves."""
    tree = CompactRange()
    for leaf in leaves[:size]:
        tree.append(leaf_hash(leaf))
    return tree.root().hex()


def example_verification(run: RunMaker, leaves: list[bytes], **changes: object) -> Verification:
    """Return the outcome of a verifier that saw everything, but for west's closing statement."""
    values: dict[str, object] = {
        "size": len(leaves),
        "root": root_of(leaves, int(str(changes.get("size", len(leaves))))),
        "time_ms": run.log.time,
        "witnesses": SITES,
        "quorum": 3,
        "cosigners": ("east", "north", "south"),
        "pinned": True,
        "findings": (Finding("closing", 16, "west closes run-7f3a", "no statement", False),),
        "replayed": frozenset(run.aggregates),
        "recomputed": tuple(run.spends),
    }
    return Verification(**{**values, **changes})  # type: ignore[arg-type]  # names checked by the call


@pytest.fixture(scope="session")
def make_report() -> Callable[..., RunReport]:
    """Build a report of the example run; keywords change texts, unit or verification."""

    def build(
        unit: str = "patient", verification: dict[str, object] | None = None, **texts: str
    ) -> RunReport:
        leaves, run = write_run(unit, **texts)
        return build_report(leaves, example_verification(run, leaves, **(verification or {})))

    return build


@pytest.fixture(scope="session")
def report(make_report: Callable[..., RunReport]) -> RunReport:
    """The example run's report."""
    return make_report()


@pytest.fixture(scope="session")
def example() -> tuple[list[bytes], Verification]:
    """The leaves of the example run and what a verifier found."""
    leaves, run = write_run()
    return leaves, example_verification(run, leaves)


@pytest.fixture(scope="session")
def leaves(example: tuple[list[bytes], Verification]) -> list[bytes]:
    """The leaves of the example run."""
    return example[0]


@pytest.fixture(scope="session")
def checked(example: tuple[list[bytes], Verification]) -> Verification:
    """The verifier's outcome on `leaves`."""
    return example[1]
