"""A coordinator that deviates while the keys of a run are agreed. One test an attack."""

from dataclasses import replace

import pytest
from secagg_federation import (
    COORDINATOR,
    SIGNERS,
    Federation,
    MemoryStore,
    build,
    check,
    ready,
    roster_of,
    run_spec,
)

from wardround.privacy.errors import (
    KeysRejected,
    OutOfOrder,
    ParametersInvalid,
    TooFewSites,
)
from wardround.privacy.identity import FileSigner
from wardround.privacy.secagg import (
    Aggregator,
    Confirmation,
    KeyAdvert,
    KeyBook,
    Participant,
    SignedRunSpec,
    digest,
    keys,
)
from wardround.privacy.secagg.messages import signed

VICTIM, PEER = "site-00", "site-01"


def forged_advert(spec: bytes, site: str, signer: FileSigner) -> KeyAdvert:
    """An advert whose private key the attacker knows."""
    _, public = keys.fresh_key_pair()
    return signed(KeyAdvert(spec, site, public, bytes(32)), signer)


def advertised() -> tuple[Federation, KeyBook]:
    federation = build(5)
    for site in federation.names:
        federation.aggregator.add_advert(federation.sites[site].advertise())
    return federation, federation.aggregator.key_book()


def with_advert(book: KeyBook, advert: KeyAdvert) -> KeyBook:
    """The book with one site's advert replaced."""
    return replace(
        book, adverts=tuple(advert if a.site == advert.site else a for a in book.adverts)
    )


def test_swapped_public_key_without_the_sites_signature() -> None:
    """Flower's SecAgg+ takes peer keys from the server unsigned; here the swap shows."""
    federation, book = advertised()
    old = next(advert for advert in book.adverts if advert.site == PEER)
    swapped = replace(old, public_key=keys.fresh_key_pair()[1])
    with pytest.raises(KeysRejected, match="not signed by site-01") as caught:
        federation.sites[VICTIM].accept_book(with_advert(book, swapped))
    assert caught.value.site == PEER


def test_swapped_public_key_signed_with_another_key() -> None:
    federation, book = advertised()
    for signer in (COORDINATOR, SIGNERS["site-02"], FileSigner.generate()):
        forged = forged_advert(book.spec, PEER, signer)
        with pytest.raises(KeysRejected, match="not signed by site-01"):
            federation.sites[VICTIM].accept_book(with_advert(book, forged))


def test_identity_that_is_not_in_the_roster() -> None:
    federation, book = advertised()
    ghost = forged_advert(book.spec, "site-99", FileSigner.generate())
    extended = replace(book, adverts=(*book.adverts, ghost))
    with pytest.raises(KeysRejected, match="site-99 is not a participant"):
        federation.sites[VICTIM].accept_book(extended)


def test_sybil_sites_from_a_larger_roster() -> None:
    """A run spec over a roster the site did not pin is refused before anything is sent."""
    spec, _ = run_spec(5)
    pinned = roster_of(list(SIGNERS)[:4])
    with pytest.raises(ParametersInvalid, match="another roster"):
        Participant(
            SignedRunSpec.sign(spec, COORDINATOR),
            VICTIM,
            SIGNERS[VICTIM],
            pinned,
            COORDINATOR.public_bytes(),
            MemoryStore(),
        )


def test_run_that_leaves_the_site_or_its_key_out() -> None:
    spec, roster = run_spec(4)
    smaller = SignedRunSpec.sign(replace(spec, participants=spec.participants[1:]), COORDINATOR)
    common = roster, COORDINATOR.public_bytes(), MemoryStore()
    with pytest.raises(ParametersInvalid, match="site-00 is not a participant"):
        Participant(smaller, VICTIM, SIGNERS[VICTIM], *common)
    with pytest.raises(ParametersInvalid, match="another identity key for site-00"):
        Participant(SignedRunSpec.sign(spec, COORDINATOR), VICTIM, SIGNERS[PEER], *common)


def test_old_advert_of_another_run_is_replayed() -> None:
    federation, book = advertised()
    earlier = build(5, run="run-0")
    old = earlier.sites[PEER].advertise()
    with pytest.raises(KeysRejected, match="for another run"):
        federation.sites[VICTIM].accept_book(with_advert(book, old))
    with pytest.raises(KeysRejected, match="book is for another run"):
        federation.sites[VICTIM].accept_book(replace(book, spec=old.spec))


def test_old_advert_of_the_same_run_is_replayed() -> None:
    """The owner sees that it is not its last one; without its approval nobody goes on."""
    federation = build(5)
    old = federation.sites[PEER].advertise()
    for site in federation.names:
        federation.aggregator.add_advert(federation.sites[site].advertise())
    stale = with_advert(federation.aggregator.key_book(), old)
    with pytest.raises(KeysRejected, match="another advert of this site"):
        federation.sites[PEER].accept_book(stale)
    federation.sites[VICTIM].accept_book(stale)
    for site in federation.names[2:]:
        federation.sites[site].accept_book(stale)
    honest = federation.aggregator.key_book()
    for site in federation.names:
        if site == PEER:
            federation.aggregator.add_ack(federation.sites[site].accept_book(honest))
    with pytest.raises(TooFewSites):
        federation.aggregator.confirmation(VICTIM)


def test_split_book_shows_different_books_to_different_sites() -> None:
    """Both books are properly signed by their sites; unanimity finds them out."""
    federation = build(5)
    first = {site: federation.sites[site].advertise() for site in federation.names}
    book_one = KeyBook(first[VICTIM].spec, tuple(first.values()))
    acks = {VICTIM: federation.sites[VICTIM].accept_book(book_one)}
    second = {**first, "site-04": federation.sites["site-04"].advertise()}
    book_two = KeyBook(first[VICTIM].spec, tuple(second.values()))
    for site in federation.names[1:]:
        acks[site] = federation.sites[site].accept_book(book_two)
    for site in (VICTIM, PEER):
        confirmation = Confirmation(
            tuple(acks[name].approval for name in federation.names),
            tuple(s for ack in acks.values() for s in ack.sealed if s.recipient == site),
        )
        with pytest.raises(KeysRejected, match="approved another key book"):
            federation.sites[site].confirm(confirmation)
        assert not federation.sites[site].ready


def test_second_book_after_the_first_was_approved() -> None:
    federation, book = advertised()
    federation.sites[VICTIM].accept_book(book)
    smaller = replace(book, adverts=book.adverts[:4])
    with pytest.raises(KeysRejected, match="second, different key book"):
        federation.sites[VICTIM].accept_book(smaller)
    assert federation.sites[VICTIM].accept_book(book).approval.book == digest(book)


def test_second_book_after_a_restart() -> None:
    federation, book = advertised()
    federation.sites[VICTIM].accept_book(book)
    federation.restart(VICTIM)
    smaller = replace(book, adverts=book.adverts[:4])
    with pytest.raises(KeysRejected, match="second, different key book"):
        federation.sites[VICTIM].accept_book(smaller)


def test_new_keys_end_the_attempt_and_suit_a_site_that_missed_rounds() -> None:
    federation = ready(5)
    federation.run(federation.start(4, participants=federation.names[:4]))
    task = federation.start(5, model=bytes(32))
    for site in federation.names[:4]:
        federation.upload(task, site)
    old = federation.aggregator.survivors_for(VICTIM)
    federation.aggregator.restart_keys()
    federation.agree()
    with pytest.raises(OutOfOrder, match="not for the attempt"):
        federation.sites[VICTIM].accept_survivors(old)
    given = federation.run(federation.start(6, model=bytes([6]) * 32))
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_book_of_too_few_sites() -> None:
    federation, book = advertised()
    with pytest.raises(KeysRejected, match="2 sites; the run asks for 3"):
        federation.sites[VICTIM].accept_book(replace(book, adverts=book.adverts[:2]))


def test_book_that_names_one_site_twice() -> None:
    federation, book = advertised()
    doubled = replace(book, adverts=(book.adverts[0], *book.adverts))
    with pytest.raises(KeysRejected, match="names one twice"):
        federation.sites[VICTIM].accept_book(doubled)


def test_two_sites_with_one_key() -> None:
    """A colluder that copies a peer's key gains nothing and is refused."""
    federation, book = advertised()
    copied = signed(
        replace(next(a for a in book.adverts if a.site == "site-04"), public_key=next(
            a for a in book.adverts if a.site == PEER
        ).public_key),
        SIGNERS["site-04"],
    )  # fmt: skip
    with pytest.raises(KeysRejected, match="one key"):
        federation.sites[VICTIM].accept_book(with_advert(book, copied))


def test_key_of_low_order() -> None:
    federation, book = advertised()
    weak = signed(KeyAdvert(book.spec, PEER, bytes(32), bytes(32)), SIGNERS[PEER])
    with pytest.raises(KeysRejected, match="not a usable X25519 key"):
        federation.sites[VICTIM].accept_book(with_advert(book, weak))


def test_confirmation_without_everyones_approval() -> None:
    federation, book = advertised()
    acks = {site: federation.sites[site].accept_book(book) for site in federation.names}
    for ack in acks.values():
        federation.aggregator.add_ack(ack)
    whole = federation.aggregator.confirmation(VICTIM)
    missing = replace(whole, approvals=whole.approvals[:-1])
    with pytest.raises(KeysRejected, match="not every site"):
        federation.sites[VICTIM].confirm(missing)
    forged = replace(whole.approvals[1], signature=bytes(64))
    with pytest.raises(KeysRejected, match="not signed by site-01"):
        federation.sites[VICTIM].confirm(
            replace(whole, approvals=(whole.approvals[0], forged, *whole.approvals[2:]))
        )


def test_group_key_share_that_is_not_the_committed_one() -> None:
    """The coordinator may drop, swap or alter the sealed shares of G; each shows."""
    federation, book = advertised()
    for site in federation.names:
        federation.aggregator.add_ack(federation.sites[site].accept_book(book))
    whole = federation.aggregator.confirmation(VICTIM)
    with pytest.raises(KeysRejected, match="one group-key share of each peer"):
        federation.sites[VICTIM].confirm(replace(whole, sealed=whole.sealed[1:]))
    first, second, *rest = whole.sealed
    swapped = (replace(first, box=second.box), replace(second, box=first.box), *rest)
    with pytest.raises(KeysRejected, match="does not open"):
        federation.sites[VICTIM].confirm(replace(whole, sealed=swapped))


def test_site_that_seals_different_group_key_shares() -> None:
    federation = build(5)
    for site in federation.names:
        federation.aggregator.add_advert(federation.sites[site].advertise())
    book = federation.aggregator.key_book()
    for site in federation.names:
        federation.aggregator.add_ack(federation.sites[site].accept_book(book))
    liar = federation.sites[PEER]._state
    root = liar.roots[0]  # shared with the victim, first in order
    box = keys.seal(root, digest(book), PEER, VICTIM, b"\7" * 32)
    whole = federation.aggregator.confirmation(VICTIM)
    lie = tuple(replace(s, box=box) if s.sender == PEER else s for s in whole.sealed)
    with pytest.raises(KeysRejected, match="not what it committed to") as caught:
        federation.sites[VICTIM].confirm(replace(whole, sealed=lie))
    assert caught.value.site == PEER


def test_run_spec_signed_by_another_coordinator() -> None:
    spec, roster = run_spec(3)
    with pytest.raises(KeysRejected, match="not signed by the coordinator"):
        Participant(
            SignedRunSpec.sign(spec, FileSigner.generate()),
            VICTIM,
            SIGNERS[VICTIM],
            roster,
            COORDINATOR.public_bytes(),
            MemoryStore(),
        )


def test_run_spec_changed_behind_the_signature() -> None:
    spec, _ = run_spec(5)
    weaker = replace(SignedRunSpec.sign(spec, COORDINATOR), spec=replace(spec, group_mode=True))
    with pytest.raises(KeysRejected):
        weaker.verify(COORDINATOR.public_bytes())


def test_steps_out_of_order_are_refused() -> None:
    _, book = advertised()
    other = ready(5)
    newcomer = build(5).sites[VICTIM]
    with pytest.raises(OutOfOrder):
        newcomer.accept_book(book)
    with pytest.raises(OutOfOrder):
        newcomer.confirm(other.aggregator.confirmation(VICTIM))
    task = other.start()
    with pytest.raises(OutOfOrder):
        newcomer.check_task(task, bytes(32))
    halfway, book_of_halfway = advertised()
    halfway.sites[VICTIM].accept_book(book_of_halfway)
    with pytest.raises(OutOfOrder, match="before the keys of the run were agreed"):
        halfway.sites[VICTIM].check_task(task, bytes(32))
    with pytest.raises(OutOfOrder, match="agreed already"):
        other.sites[VICTIM].accept_book(other.aggregator.key_book())


def test_aggregator_refuses_adverts_and_approvals_that_do_not_fit() -> None:
    federation, book = advertised()
    aggregator: Aggregator = federation.aggregator
    with pytest.raises(KeysRejected, match="not a participant"):
        aggregator.add_advert(forged_advert(book.spec, "site-40", SIGNERS["site-40"]))
    with pytest.raises(KeysRejected, match="not signed"):
        aggregator.add_advert(forged_advert(book.spec, PEER, SIGNERS[VICTIM]))
    ack = federation.sites[VICTIM].accept_book(book)
    with pytest.raises(KeysRejected, match="not signed"):
        aggregator.add_ack(replace(ack, approval=replace(ack.approval, site=PEER)))
    with pytest.raises(KeysRejected, match="did not seal"):
        aggregator.add_ack(replace(ack, sealed=ack.sealed[1:]))
    extra = replace(ack.sealed[0], sender=PEER)
    with pytest.raises(KeysRejected, match="did not seal"):
        aggregator.add_ack(replace(ack, sealed=(*ack.sealed, extra)))
    with pytest.raises(OutOfOrder, match="not approved by all"):
        aggregator.task(1, 1, federation.names, bytes(32))
