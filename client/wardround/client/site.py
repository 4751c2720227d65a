"""An open site: its database, keys, copy of the log, ledger and policy, for one process.

Whatever the site knows of peers, plans and approvals it reads from its own witnessed copy of the
log; what it decides it says in statements that it signs.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import Engine

from wardround.client import policy
from wardround.client.config import Home, Pins
from wardround.client.database import open_database, session
from wardround.client.deidentification import deidentification
from wardround.client.errors import ClientError, ProofStale, Refused
from wardround.client.ledger import Ledger
from wardround.client.link import HttpLink, Link
from wardround.client.policy import Admission, Policy
from wardround.client.state import Decision, newest_decision
from wardround.client.witness import Witness
from wardround.datasets.cohort import Cohort
from wardround.privacy.events import Approval, PrivacySpend, Refusal, from_leaf
from wardround.privacy.federation import Federation, StudyState
from wardround.privacy.identity import FileSigner
from wardround.privacy.plan import StudyPlan, decimal_text, spelled
from wardround.privacy.planned import PlannedSpend
from wardround.privacy.records import one_line

BATCH = 1000


@contextmanager
def open_witness(home: Home, pins: Pins) -> Iterator[Witness]:
    """Open the site's database as a witness of the pinned log."""
    engine = open_database(home.database)
    try:
        yield _witness(home, pins, engine)
    finally:
        engine.dispose()


def _witness(home: Home, pins: Pins, engine: Engine) -> Witness:
    return Witness(engine, home.name, home.identity(), home.witness(), pins.origin, pins.log_public)


@dataclass(slots=True)
class Site:
    """One site at work. Make it with `open`."""

    home: Home
    pins: Pins
    engine: Engine
    identity: FileSigner = field(repr=False)
    witness: Witness
    ledger: Ledger
    link: Link
    _federation: Federation = field(default_factory=Federation)
    _spends: list[PrivacySpend] = field(default_factory=list)
    _read: int = 0

    @classmethod
    @contextmanager
    def open(cls, home: Home, link: Link | None = None) -> Iterator["Site"]:
        """Open the site in `home`; closed when the block ends. `link` takes the network's place.

        Raises SiteStateError when it has not joined, LedgerDamaged for a ledger that was
        changed, KeyFileError for keys that are missing, open to others or locked.
        """
        pins = home.pins()
        engine = open_database(home.database)
        try:
            identity = home.identity()
            witness = _witness(home, pins, engine)
            link = link or HttpLink(home, pins, identity)
            yield cls(home, pins, engine, identity, witness, Ledger(engine), link)
        finally:
            engine.dispose()

    # -- the log --------------------------------------------------------------------------------

    def sync(self) -> None:
        """Bring the log copy up to date, hand in statements, and check the ledger's position.

        Raises ClientError when the coordinator cannot be reached or refuses this site, LogRefused
        when the log contradicts what this site has witnessed.
        """
        for _ in range(1000):
            sent = self.witness.head()
            head, _status = self.link.sync(sent)
            try:
                self.witness.accept(head, asked_at=sent.size)
            except ProofStale:
                continue  # a request of the coordinator, or another command, was quicker
            where = self.witness.position()
            if where.mirrored == where.size == sent.size and not self.witness.pending():
                break  # nothing new, and the newest cosignature has been handed in
        self.check_ledger()

    def catch_up(self) -> None:
        """Hold all of the log that this site has witnessed, and compare the ledger with it.

        Before anything is spent: the database may have been restored since the run began.
        """
        where = self.witness.position()
        if where.mirrored < where.size:
            self.sync()
        self.check_ledger()

    def check_ledger(self) -> None:
        """Suspend the ledger when the log has seen more of it than this database holds."""
        self.federation()
        where = self.witness.position()
        self.ledger.check_position(where.ledger_sequence, self._spends, where.forgotten)

    def federation(self) -> Federation:
        """Return sites, studies and runs as this site's copy of the log has them."""
        while leaves := self.witness.entries(self._read, self._read + BATCH):
            for data in leaves:
                leaf = from_leaf(data)
                self._federation.read(leaf)
                if isinstance(leaf.event, PrivacySpend) and leaf.site == self.home.name:
                    self._spends.append(leaf.event)
            self._read += len(leaves)
        return self._federation

    # -- studies --------------------------------------------------------------------------------

    def study(self, name: str) -> tuple[StudyState, StudyPlan]:
        """Return a study of the log and its plan, whose signature is checked.

        Raises ClientError when the log has no such study for this site.
        """
        state = self.federation().studies.get(name)
        if state is None:
            raise ClientError(f"the log has no study {name[:40]!r}; see: study review")
        plan = state.signed_plan.open(self.pins.coordinator_public)
        return state, plan

    def policy(self) -> Policy:
        """Return the policy as its file stands now."""
        return policy.load(self.home.policy)

    def cohort(self, admission: Admission) -> Cohort:
        """Return the data set that the policy names; Refused when it is too small."""
        cohort = Cohort.load(self.home.folder, admission.data)
        patients = len({sample.patient for sample in cohort.samples("train")})
        if patients < admission.min_patients:
            raise Refused(
                "min_patients",
                f"the data set has fewer than the {admission.min_patients} patients to train on "
                "that the policy asks for",
            )
        return cohort

    def check_plan(self, plan: StudyPlan) -> tuple[Admission, Cohort]:
        """Return what admits `plan` and the data it would use; Refused names the rule."""
        if self.home.name not in plan.participants.sites:
            raise Refused("participants", "the plan does not name this site")
        admission = self.policy().admit(plan)
        cohort = self.cohort(admission)
        if cohort.kind != plan.task.data_kind:
            raise Refused(
                "data", f"the data set is for {cohort.kind}, the plan's task is {plan.task.kind}"
            )
        if not _fits(cohort, plan):
            raise Refused(
                "data",
                f"the data set has classes {', '.join(cohort.classes)[:80]}; the plan names "
                f"{', '.join(plan.task.classes)[:80]}",
            )
        cost = PlannedSpend.of_plan(plan).promised()
        if cost.value > plan.privacy.target_epsilon:
            raise Refused(
                "target_epsilon",
                f"the plan's steps cost epsilon {cost.text}, more than the "
                f"{plan.privacy.target_epsilon} it states",
            )
        return admission, cohort

    def approve(self, name: str, approver: str) -> StudyPlan:
        """Approve the newest plan of a study: policy checked, budgets set, statement signed.

        The statement goes out with the next `sync`, and before it, once, what was done to
        de-identify the data. Raises Refused when the policy or the data do not admit the plan.
        """
        state, plan = self.study(name)
        admission, cohort = self.check_plan(plan)
        prepared = deidentification(self.home.folder, cohort)
        rules = self.policy()
        self._set_budgets(plan, cohort.pseudonym, rules)
        self.check_budget(plan, cohort.pseudonym)
        self._decide(state, "approved", "", admission.data)
        if prepared is not None and not self.witness.said(prepared):
            self.witness.statement(prepared)
        self.witness.statement(
            Approval(
                study=name,
                plan_digest=state.planned.plan_digest,
                approver=approver,
                datasets=(cohort.pseudonym,),
                epsilon_limit=decimal_text(plan.privacy.target_epsilon),
                delta=spelled(plan.privacy.delta),
                policy_digest=rules.digest,
                legal_basis=plan.study.legal_basis,
                dpia=plan.study.dpia,
            )
        )
        return plan

    def _set_budgets(self, plan: StudyPlan, dataset: str, rules: Policy) -> None:
        """Give the study its budget, and a data set without one that of the policy's [total].

        A study's budget that stands already is never raised, only lowered to what the plan may
        cost. Raising either is the operator's alone: `wardround-site ledger budget`.
        """
        audience = "aggregate" if plan.privacy.shared_noise else "everyone"
        budgets = self.ledger.book().budgets
        if (dataset, "") not in budgets:
            self.ledger.set_budget(
                dataset, rules.total_epsilon, rules.total_delta, audience=audience
            )
        asked, study = plan.privacy, plan.study.id
        standing = budgets.get((dataset, study))
        if standing is None or (
            (Decimal(standing.delta), standing.audience) == (asked.delta, audience)
            and asked.target_epsilon < Decimal(standing.epsilon)
        ):
            self.ledger.set_budget(
                dataset, asked.target_epsilon, asked.delta, study=study, audience=audience
            )

    def check_budget(self, plan: StudyPlan, dataset: str) -> None:
        """Raise Refused unless the budgets of the data set bear all rounds of `plan`."""
        planned = PlannedSpend.of_plan(plan)
        accounts = self.ledger.book().accounts(dataset, plan.study.id, planned.events())
        if accounts and all(account.fits for account in accounts):
            return
        per_round = planned.events_per_round()
        affordable = self.ledger.affordable_rounds(dataset, plan.study.id, per_round)
        raise Refused(
            "budget",
            "the plan costs more than what is left of the data set's budget: "
            f"{affordable} of its {plan.training.rounds} rounds are affordable; "
            "see: wardround-site ledger, and to allow more: wardround-site ledger budget set",
        )

    def refuse(self, name: str, rule: str, reason: str) -> None:
        """Refuse the newest plan of a study; the statement goes out with the next `sync`."""
        state, _plan = self.study(name)
        self._decide(state, "refused", reason, "")
        self.witness.statement(
            Refusal(
                study=name,
                plan_digest=state.planned.plan_digest,
                run="",
                round=0,
                attempt=0,
                rule=rule,
                reason=one_line(reason),
            )
        )

    def approved(self, plan_digest: str) -> bool:
        """Whether this site's operator approved this very plan, and has not refused it since."""
        decision = newest_decision(self.engine, plan_digest)
        return decision is not None and decision.verdict == "approved"

    def _decide(self, state: StudyState, verdict: str, reason: str, data: str) -> None:
        with session(self.engine) as database:
            database.add(
                Decision(
                    plan_digest=state.planned.plan_digest,
                    study=state.planned.study,
                    verdict=verdict,
                    reason=reason,
                    data=data,
                    time_ms=time.time_ns() // 1_000_000,
                )
            )

    # -- to look at -----------------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        """Return where the site stands, for a person or a machine."""
        try:
            self.sync()
            reached = "yes"
        except ClientError as error:
            reached = str(error)
        where = self.witness.position()
        federation = self.federation()
        enrolled = self.home.name in federation.sites
        return {
            "site": self.home.name,
            "coordinator": self.pins.url,
            "coordinator_reached": reached,
            "enrolled": "yes" if enrolled else "not yet",
            "log_entries_witnessed": where.size,
            "log_entries_held": where.mirrored,
            "statements_without_receipt": len(self.witness.pending()),
            "log_refusals": len(self.witness.refused()),
            "studies": {
                name: "approved" if self.approved(state.planned.plan_digest) else "open"
                for name, state in sorted(federation.studies.items())
                if self.home.name in state.planned.participants
            },
        }

    def log_rows(self, last: int) -> list[dict[str, object]]:
        """Return the newest `last` entries of this site's copy of the log."""
        end = self.witness.position().mirrored
        rows: list[dict[str, object]] = []
        for index, data in enumerate(
            self.witness.entries(max(0, end - last), end), start=max(0, end - last)
        ):
            leaf = from_leaf(data)
            time_text = datetime.fromtimestamp(leaf.ts_ms / 1000, UTC).strftime("%m-%d %H:%M:%S")
            rows.append(
                {
                    "entry": index,
                    "time": time_text,
                    "kind": leaf.kind,
                    "site": leaf.site,
                    "run": leaf.run,
                    "round": leaf.round or "",
                }
            )
        return rows


def _fits(cohort: Cohort, plan: StudyPlan) -> bool:
    """Whether the plan knows the cohort's classes; voxel values and rows stand for an order."""
    if cohort.kind.startswith("image-classification"):
        return set(cohort.classes) <= set(plan.task.classes)
    return cohort.classes == plan.task.classes
