"""Checks the chain of a site's own statements, and that the log holds just those of its name."""

from collections.abc import Iterator

from wardround.client.site_report.model import ChainFacts
from wardround.client.site_report.sources import Said, Sources
from wardround.client.witness import Witness
from wardround.privacy.errors import MalformedData, SignatureInvalid
from wardround.privacy.events import Enrol, Rotate
from wardround.privacy.presentation.marks import Marked, Source
from wardround.privacy.statements import FIRST, key_id


def check_chain(witness: Witness, sources: Sources) -> ChainFacts:
    """Check sequence, links and signature of every statement, and compare with the log's copy."""
    problems = [*_links(witness, sources), *_strangers(witness, sources)]
    return ChainFacts(
        statements=Marked(len(sources.said), Source.VERIFIED),
        receipts=Marked(sum(1 for s in sources.said if s.entry is not None), Source.VERIFIED),
        problems=tuple(Marked(text, Source.VERIFIED, entries) for text, entries in problems),
    )


def _links(witness: Witness, sources: Sources) -> Iterator[tuple[str, tuple[int, ...]]]:
    keys = _keys(witness, sources)
    previous = FIRST
    for number, said in enumerate(sources.said, 1):
        statement = said.statement
        where = () if said.entry is None else (said.entry,)
        if statement.sequence != number:
            yield f"statement {number} is missing; {statement.sequence} follows", where
            return
        if statement.previous != previous:
            yield f"statement {number} does not name the one before it", where
        previous = said.envelope.digest()
        public = keys.get(said.envelope.keyid)
        if public is None:
            yield f"statement {number} is signed by a key that is not this site's", where
        elif problem := _signature(said, public):
            yield f"statement {number}: {problem}", where


def _signature(said: Said, public: bytes) -> str:
    try:
        said.envelope.verify(public)
    except (SignatureInvalid, MalformedData):
        return "its signature does not verify"
    return ""


def _strangers(witness: Witness, sources: Sources) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield entries under this site's name that it did not make, and receipts that do not fit."""
    own = {said.envelope.digest() for said in sources.said}
    held = {}
    for seen in sources.seen:
        envelope, statement = seen.leaf.envelope, seen.leaf.statement
        if envelope is None or statement is None or statement.site != witness.site:
            continue
        held[seen.index] = envelope.digest()
        if envelope.digest() not in own:
            yield "the log holds a statement of this site that it did not make", (seen.index,)
    for said in sources.said:
        if said.entry in held and held[said.entry] != said.envelope.digest():
            words = f"statement {said.statement.sequence} is not at the place of its receipt"
            yield words, (said.entry,)


def _keys(witness: Witness, sources: Sources) -> dict[str, bytes]:
    """Return this site's identity keys, past and present, by the id that envelopes name."""
    keys = [witness.identity.public_bytes()]
    for said in sources.said:
        if isinstance(said.event, Enrol | Rotate):
            keys.append(bytes.fromhex(said.event.identity))
    return {key_id(public): public for public in keys}
