"""What the log says of sites, studies and runs: one reading of it, for coordinator and sites alike.

A site takes peers' keys, plans and approvals from its own witnessed copy of the log and from
nowhere else, so the coordinator cannot tell two sites different things without forking the log.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from wardround.privacy.errors import IdentityUnknown
from wardround.privacy.events import (
    Approval,
    Enrol,
    Event,
    Leaf,
    Refusal,
    Revoke,
    Rotate,
    RunEnd,
    RunStart,
    StudyPlanned,
)
from wardround.privacy.identity import Roster, SiteKeys
from wardround.privacy.plan import SignedPlan

KINDS = tuple(
    event.kind
    for event in (Enrol, Rotate, Revoke, StudyPlanned, Approval, Refusal, RunStart, RunEnd)
)
"""The kinds of entries that `project` reads; every other changes nothing of it."""


@dataclass(frozen=True, slots=True)
class StudyState:
    """A study as the log has it: its newest plan, and what each site said of that plan."""

    planned: StudyPlanned
    approved: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    @property
    def signed_plan(self) -> SignedPlan:
        """The plan as the coordinator signed it."""
        return SignedPlan(self.planned.plan.encode("ascii"), bytes.fromhex(self.planned.signature))


@dataclass(frozen=True, slots=True)
class RunState:
    """A run as the log has it; `outcome` is empty while it goes on."""

    start: RunStart
    outcome: str = ""


@dataclass(slots=True)
class Federation:
    """Enrolled sites, studies and runs at one size of the log."""

    sites: dict[str, SiteKeys] = field(default_factory=dict)
    organisations: dict[str, str] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    studies: dict[str, StudyState] = field(default_factory=dict)
    runs: dict[str, RunState] = field(default_factory=dict)

    def roster(self, sites: Iterable[str]) -> Roster:
        """Return the keys of `sites`; IdentityUnknown when one of them is not enrolled."""
        rows = []
        for site in sorted(sites):
            if site not in self.sites:
                state = "revoked" if site in self.revoked else "not enrolled"
                raise IdentityUnknown(f"site {site[:40]!r} is {state}")
            rows.append(self.sites[site])
        return Roster(tuple(rows))

    def study_of_digest(self, plan_digest: str) -> StudyState | None:
        """Return the study whose newest plan has this digest, or None."""
        for study in self.studies.values():
            if study.planned.plan_digest == plan_digest:
                return study
        return None

    def runs_of(self, study: str) -> Iterator[RunState]:
        """Give the runs of a study, oldest first."""
        return (run for run in self.runs.values() if run.start.study == study)

    def read(self, leaf: Leaf) -> None:
        """Take in one more entry, in the order of the log."""
        event: Event = leaf.event
        if isinstance(event, Enrol | Rotate):
            self.sites[event.site] = SiteKeys(
                event.site,
                bytes.fromhex(event.identity),
                bytes.fromhex(event.witness),
                bytes.fromhex(event.supernode),
            )
            self.revoked.discard(event.site)
            if isinstance(event, Enrol):
                self.organisations[event.site] = event.organisation
        elif isinstance(event, Revoke):
            self.sites.pop(event.site, None)
            self.revoked.add(event.site)
        elif isinstance(event, StudyPlanned):
            self.studies[event.study] = StudyState(event)
        elif isinstance(event, Approval | Refusal):
            self._decide(event, leaf.site)
        elif isinstance(event, RunStart):
            self.runs[event.run] = RunState(event)
        elif isinstance(event, RunEnd) and event.run in self.runs:
            self.runs[event.run] = replace(self.runs[event.run], outcome=event.outcome)

    def _decide(self, event: Approval | Refusal, site: str) -> None:
        study = self.studies.get(event.study)
        if study is None or study.planned.plan_digest != event.plan_digest:
            return
        approved, refused = study.approved - {site}, study.refused - {site}
        if isinstance(event, Approval):
            approved |= {site}
        elif not event.run:  # a refusal of one round takes back no approval
            refused |= {site}
        else:
            approved, refused = study.approved, study.refused
        self.studies[event.study] = replace(study, approved=approved, refused=refused)


def project(leaves: Iterable[Leaf]) -> Federation:
    """Return what `leaves`, in the order of the log, say of sites, studies and runs."""
    federation = Federation()
    for leaf in leaves:
        federation.read(leaf)
    return federation
