"""R3 to R6 at a site: what a survivor set must satisfy, and which shares it then opens."""

from collections.abc import Mapping
from itertools import combinations

from wardround.privacy.errors import KeysRejected, SurvivorsRejected, TaskRejected
from wardround.privacy.identity import Roster
from wardround.privacy.secagg import checks, keys
from wardround.privacy.secagg.checks import others, sealed_holders
from wardround.privacy.secagg.codec import digest
from wardround.privacy.secagg.dealing import derived_share
from wardround.privacy.secagg.messages import Shares, Survivors, SurvivorSet, Task
from wardround.privacy.secagg.parameters import SECRET, RunSpec
from wardround.privacy.secagg.state import Released, RoundState

_OTHER_SITES = "a sum over other sites was opened for this model; two such sums could be subtracted"


def check_survivors(
    spec: RunSpec, roster: Roster, site: str, current: RoundState, survivors: Survivors
) -> None:
    """Raise SurvivorsRejected unless every header, pair of commitments and box is as it must."""
    task, headers = current.task, survivors.headers
    checks.check_survivor_sites(spec, task, survivors.set.sites)
    if current.header not in headers:
        raise SurvivorsRejected("the survivor set does not hold this site's own upload")
    for header in headers:
        checks.check_header(spec, roster, task, header, SurvivorsRejected)
    for one, other in combinations(headers, 2):
        checks.check_pair(task, one, other, SurvivorsRejected)
    holders = {
        header.site: sealed_holders(task.participants, header.site, spec.threshold)
        for header in headers
    }
    senders = [header for header in headers if site in holders[header.site]]
    if len(survivors.boxes) != len(senders):
        raise SurvivorsRejected("the survivor set does not bring the boxes sealed to this site")
    for header, box in zip(senders, survivors.boxes, strict=True):
        if checks.box_digest(box) != header.boxes[holders[header.site].index(site)]:
            raise SurvivorsRejected(f"a box is not the one {header.site} sent", header.site)


def check_repeat(releases: tuple[Released, ...], task: Task, participants: int) -> None:
    """Raise TaskRejected when a sum was opened for the task's model that it cannot repeat.

    Of updates that were sent again, two sums over different sites differ by single sites'
    updates, and two under different bounds by what single coordinates have between the bounds.
    """
    for released in releases:
        if released.model != task.model:
            continue
        if released.sites & ~participants:
            raise TaskRejected(_OTHER_SITES)
        if (released.clip, released.prior) != (task.clip, task.prior):
            raise TaskRejected(
                "a sum was opened for this model under another bound; two such sums tell of "
                "single updates"
            )


def check_difference(releases: tuple[Released, ...], model: bytes, sites: int) -> None:
    """Raise SurvivorsRejected when a sum over other sites was opened for the same model."""
    for released in releases:
        if released.model == model and released.sites != sites:
            raise SurvivorsRejected(_OTHER_SITES)


def hold_shares(
    spec: RunSpec,
    site: str,
    current: RoundState,
    survivors: Survivors,
    roots: Mapping[str, bytes],
) -> tuple[bytes, ...]:
    """Return the shares that each survivor dealt to `site`, in order of survivors.

    Empty for a box that its sender made badly: the others' shares will have to do.
    """
    participants, boxes = current.task.participants, iter(survivors.boxes)
    held = []
    for header in survivors.headers:
        dealer = header.site
        if dealer == site:
            held.append(current.own_shares)
        elif site in sealed_holders(participants, dealer, spec.threshold):
            try:
                share = keys.unseal(roots[dealer], survivors.context, dealer, site, next(boxes))
            except KeysRejected:
                share = b""
            held.append(share if len(share) == SECRET * len(participants) else b"")
        else:
            salt = header.self_commitment
            root, count = roots[dealer], len(participants)
            held.append(derived_share(root, survivors.context, dealer, site, salt, count))
    return tuple(held)


def shares_to_release(site: str, current: RoundState, survivors: SurvivorSet) -> Shares:
    """Return the unsigned shares: self masks of U; pair secrets of U with everyone outside U.

    Both lists follow from the one signed set, so no peer can be in both.
    """
    participants = current.task.participants
    pair_shares = []
    for owner, content in zip(survivors.sites, current.held, strict=True):
        for position, peer in enumerate(others(participants, owner), start=1):
            if peer not in survivors.sites:
                pair_shares.append(content[SECRET * position : SECRET * (position + 1)])
    self_shares = tuple(content[:SECRET] for content in current.held)
    return Shares(survivors.context, site, digest(survivors), self_shares, tuple(pair_shares))
