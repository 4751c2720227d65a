"""Exchanges over the in-process grid: answers, faults, and messages in another form."""

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.app.typing import ConfigRecordValues

from wardround.privacy.errors import MalformedData
from wardround.privacy.exchange import INLINE_PAYLOAD
from wardround.server.exchange import (
    MAX_SENDS,
    Exchange,
    Failure,
    Reason,
    Reply,
    Request,
    content,
    parse,
)
from wardround.server.inprocess import Fault, Handler, InProcessGrid

SITES = ("east", "north", "south")


def echo(kind: str, body: bytes, payload: bytes | None) -> tuple[str, bytes, bytes | None]:
    return kind, body[::-1], payload


def exchange(grid: InProcessGrid) -> Exchange:
    """An exchange that never really waits, but gives up after many pauses."""
    return Exchange(grid, sleep=lambda seconds: None)


@pytest.fixture
def grid() -> InProcessGrid:
    return InProcessGrid(dict.fromkeys(SITES, echo))


def ask(
    grid: InProcessGrid, kind: str = "task", deadline: float = 30.0
) -> dict[str, Reply | Failure]:
    requests = {site: Request(kind, site.encode(), b"model") for site in SITES}
    answers = list(exchange(grid).ask(requests, deadline))
    assert len(answers) == len(SITES)
    return dict(answers)


def test_every_site_answers_its_own_request(grid: InProcessGrid) -> None:
    assert ask(grid) == {site: Reply("task", site.encode()[::-1], b"model") for site in SITES}


def test_nodes_are_known_by_name(grid: InProcessGrid) -> None:
    grid.inject("south", Fault.DOWN)
    assert set(exchange(grid).nodes()) == {"east", "north"}


@pytest.mark.parametrize("size", [0, 1, INLINE_PAYLOAD, INLINE_PAYLOAD + 1, 5 * 1024 * 1024 + 3])
def test_payload_of_any_size_arrives_unchanged(size: int) -> None:
    payload = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8).tobytes()
    grid = InProcessGrid({"north": lambda kind, body, data: (kind, b"", data)})
    answers = list(exchange(grid).ask({"north": Request("task", b"", payload)}, 30))
    assert answers == [("north", Reply("task", b"", payload))]
    assert grid.sent["north"] > size
    assert grid.received["north"] > size


def test_an_offline_site_is_reported_and_the_others_answer(grid: InProcessGrid) -> None:
    grid.inject("north", Fault.DOWN)
    answers = ask(grid, deadline=0.05)
    assert isinstance(answers["east"], Reply)
    failure = answers["north"]
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.UNKNOWN


def test_a_site_that_appears_later_is_asked_then(
    grid: InProcessGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wardround.server.exchange.NODE_CHECK_SECONDS", 0.0)
    grid.inject("north", Fault.DOWN)
    answers = {}
    for site, answer in exchange(grid).ask({s: Request("hello", b"x") for s in SITES}, 30):
        answers[site] = answer
        if len(answers) == 2:
            assert "north" not in answers
            grid.restore("north")
    assert answers["north"] == Reply("hello", b"x")


@pytest.mark.parametrize("fault", [Fault.LOST_REQUEST, Fault.LOST_REPLY])
def test_a_lost_message_times_out(grid: InProcessGrid, fault: Fault) -> None:
    grid.inject("east", fault, kind="task")
    failure = ask(grid, deadline=0.05)["east"]
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.TIMEOUT
    assert isinstance(ask(grid)["east"], Reply), "the fault was to happen once"


def test_a_request_lost_with_its_supernode_is_sent_again(
    grid: InProcessGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wardround.server.exchange.NODE_CHECK_SECONDS", 0.0)
    grid.inject("south", Fault.RESTART)
    assert ask(grid)["south"] == Reply("task", b"htuos", b"model")
    assert grid.calls.count(("south", "task")) == 1


def test_a_crashed_app_is_asked_again_a_few_times(grid: InProcessGrid) -> None:
    grid.inject("south", Fault.CRASH, times=MAX_SENDS - 1)
    assert isinstance(ask(grid)["south"], Reply)
    grid.inject("south", Fault.CRASH, times=MAX_SENDS)
    failure = ask(grid)["south"]
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.UNAVAILABLE


def test_a_duplicate_reply_counts_once(grid: InProcessGrid) -> None:
    grid.inject("north", Fault.DUPLICATE)
    assert isinstance(ask(grid)["north"], Reply)
    assert grid.calls.count(("north", "task")) == 2


def test_answers_stream_in_the_order_of_arrival(grid: InProcessGrid) -> None:
    grid.inject("east", Fault.DELAY, pulls=3)
    requests = {site: Request("task", b"") for site in SITES}
    order = [site for site, _ in exchange(grid).ask(requests, 30)]
    assert order[-1] == "east"


def test_a_reply_in_another_nodes_name_is_refused(grid: InProcessGrid) -> None:
    grid.inject("east", Fault.FORGED)
    answer = ask(grid)["east"]
    assert isinstance(answer, Failure)
    assert answer.reason is Reason.MALFORMED


def test_a_site_in_error_answers_with_an_error_reply(grid: InProcessGrid) -> None:
    grid.replace("north", lambda kind, body, payload: ("error", b"policy: no", None))
    assert ask(grid)["north"] == Reply("error", b"policy: no")


LARGE = bytes(INLINE_PAYLOAD + 1)


def array(data: bytes = LARGE, **other: object) -> Array:
    fields = {"dtype": "uint8", "shape": (len(data),), "stype": "bytes", "data": data} | other
    return Array(**fields)  # type: ignore[arg-type]  # wrong types are the point here


FIELDS: dict[str, ConfigRecordValues] = {"kind": "task", "body": b""}


def with_array(made: Array, **more: bytes) -> RecordDict:
    record = ArrayRecord({"payload": made})
    return RecordDict({"wardround": ConfigRecord({**FIELDS, **more}), "payload": record})


@pytest.mark.parametrize(
    "records",
    [
        lambda: RecordDict(),
        lambda: RecordDict({"wardround": ArrayRecord()}),
        lambda: RecordDict({"wardround": ConfigRecord({"kind": "task"})}),
        lambda: RecordDict({"wardround": ConfigRecord({**FIELDS, "more": 1})}),
        lambda: RecordDict({"wardround": ConfigRecord({**FIELDS, "kind": ""})}),
        lambda: RecordDict({"wardround": ConfigRecord({**FIELDS, "kind": "x" * 65})}),
        lambda: RecordDict({"wardround": ConfigRecord({**FIELDS, "kind": b"task"})}),
        lambda: RecordDict({"wardround": ConfigRecord({**FIELDS, "body": "text"})}),
        lambda: RecordDict({"wardround": ConfigRecord(dict(FIELDS)), "x": ConfigRecord()}),
        lambda: with_array(array(dtype="float32")),
        lambda: with_array(array(shape=(1, len(LARGE)))),
        lambda: with_array(array(shape=(3,))),
        lambda: with_array(array(stype="numpy.ndarray")),
        lambda: with_array(array(data=b"small")),
        lambda: with_array(array(), payload=b"twice"),
        lambda: RecordDict({"wardround": ConfigRecord({**FIELDS, "payload": LARGE})}),
        lambda: RecordDict({"wardround": ConfigRecord({**FIELDS, "payload": "text"})}),
    ],
)
def test_content_in_another_form_is_refused(records: Callable[[], RecordDict]) -> None:
    with pytest.raises(MalformedData, match="message"):
        parse(records())


@pytest.mark.parametrize(
    ("kind", "body"), [("", b""), ("k" * 65, b""), ("k", bytes(4 << 20) + b"x")]
)
def test_a_message_beyond_the_limits_is_never_made(kind: str, body: bytes) -> None:
    with pytest.raises(MalformedData, match="payload"):
        content(kind, body, None)


def test_a_malformed_reply_counts_as_a_failure(grid: InProcessGrid) -> None:
    def broken(kind: str, body: bytes, payload: bytes | None) -> tuple[str, bytes, bytes | None]:
        return "task", b"", b"xx"

    handler: Handler = broken
    grid.replace("north", handler)
    original = grid.pull_messages

    def tamper(ids: list[str]) -> list[object]:
        messages = list(original(ids))
        for message in messages:
            message.content.config_records["wardround"]["more"] = 1
        return messages  # type: ignore[return-value]  # a list of messages

    grid.pull_messages = tamper  # type: ignore[method-assign, assignment]  # on purpose
    answer = dict(exchange(grid).ask({"north": Request("task", b"")}, 30))["north"]
    assert isinstance(answer, Failure)
    assert answer.reason is Reason.MALFORMED
