"""M1 to M4 at a site: agreeing on the keys of a run, as steps from one state to the next."""

from dataclasses import replace

from wardround.privacy.errors import KeysRejected, OutOfOrder
from wardround.privacy.identity import Roster, Signer
from wardround.privacy.secagg import checks, keys
from wardround.privacy.secagg.checks import others
from wardround.privacy.secagg.codec import digest
from wardround.privacy.secagg.messages import (
    Approval,
    BookAck,
    Confirmation,
    KeyAdvert,
    KeyBook,
    Sealed,
    signed,
)
from wardround.privacy.secagg.parameters import RunSpec
from wardround.privacy.secagg.state import ParticipantState


def advertise(state: ParticipantState, signer: Signer) -> tuple[ParticipantState, KeyAdvert]:
    """M1: fresh keys, whatever was agreed before; the history of rounds and releases stays."""
    private, public = keys.fresh_key_pair()
    share = keys.fresh_secret()
    commitment = keys.commit("group-share", state.spec, share, state.site)
    advert = signed(KeyAdvert(state.spec, state.site, public, commitment), signer)
    fresh = replace(
        state,
        advert=advert,
        private_key=private,
        group_share=share,
        book=None,
        confirmed=False,
        roots=(),
        roots_round=0,
        group_key=b"",
        current=None,
    )
    return fresh, advert


def accept_book(
    state: ParticipantState, book: KeyBook, spec: RunSpec, roster: Roster
) -> ParticipantState:
    """M2: check the book, agree on a root with every peer, forget the private key."""
    if state.advert is None:
        raise OutOfOrder("a key book came before this site advertised its keys")
    if state.book is not None:
        if state.book != book:
            raise KeysRejected("the coordinator sent a second, different key book")
        return state
    checks.check_book(spec, roster, book)
    if state.advert not in book.adverts:
        raise KeysRejected("the key book holds another advert of this site than its last one")
    name = digest(book)
    roots = tuple(
        keys.pair_root(state.private_key, advert.public_key, name, state.site, advert.site)
        for advert in book.adverts
        if advert.site != state.site
    )
    return replace(state, book=book, roots=roots, private_key=b"")


def acknowledge(state: ParticipantState, signer: Signer) -> BookAck:
    """M3: approve the one accepted book and seal the group-key share to each peer."""
    book = state.book
    if book is None or state.confirmed:
        raise OutOfOrder("the keys of this run are agreed already")
    name, site = digest(book), state.site
    sealed = tuple(
        Sealed(site, peer, keys.seal(root, name, site, peer, state.group_share))
        for peer, root in zip(others(book.sites, site), state.roots, strict=True)
    )
    return BookAck(signed(Approval(name, site), signer), sealed)


def confirm(
    state: ParticipantState, confirmation: Confirmation, roster: Roster
) -> ParticipantState:
    """M4: everyone approved this book, and every group-key share is what was committed to."""
    book = state.book
    if book is None:
        raise OutOfOrder("a confirmation came before the key book")
    if state.confirmed:
        return state
    name = digest(book)
    if tuple(approval.site for approval in confirmation.approvals) != book.sites:
        raise KeysRejected("not every site of the key book approved it")
    for approval in confirmation.approvals:
        if approval.book != name:
            raise KeysRejected(
                f"{approval.site} approved another key book than this site", approval.site
            )
        checks.check_site_signature(roster, approval, KeysRejected)
    shares = _group_shares(state, confirmation, book)
    group_key = keys.derive(b"".join(shares), "group-key", salt=name)
    return replace(state, confirmed=True, group_key=group_key, group_share=b"")


def _group_shares(
    state: ParticipantState, confirmation: Confirmation, book: KeyBook
) -> list[bytes]:
    name, site = digest(book), state.site
    peers = others(book.sites, site)
    if [sealed.sender for sealed in confirmation.sealed] != peers:
        raise KeysRejected("the confirmation does not hold one group-key share of each peer")
    boxes = {sealed.sender: sealed.box for sealed in confirmation.sealed}
    roots = dict(zip(peers, state.roots, strict=True))
    shares = []
    for advert in book.adverts:
        peer, share = advert.site, state.group_share
        if peer != site:
            share = keys.unseal(roots[peer], name, peer, site, boxes[peer])
        if keys.commit("group-share", state.spec, share, peer) != advert.group_commitment:
            raise KeysRejected(f"the group-key share of {peer} is not what it committed to", peer)
        shares.append(share)
    return shares
