"""Exports of the log: FHIR AuditEvents that a FHIR model accepts, and SIEM lines."""

import json
from typing import Any

import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from wardround.privacy import events
from wardround.privacy.events import to_leaf
from wardround.privacy.exports import fhir_lines, siem_lines

ORIGIN = "log.wardround.example/study"
Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def audit_events(leaves: list[bytes]) -> Records:
    """The example run as AuditEvents."""
    return [json.loads(line) for line in fhir_lines(leaves, ORIGIN)]


@pytest.fixture(scope="module")
def records(leaves: list[bytes]) -> Records:
    """The example run as SIEM records."""
    return [json.loads(line) for line in siem_lines(leaves, ORIGIN)]


def of_kind(resources: Records, kind: str) -> Records:
    """Return the AuditEvents of a kind of entry."""
    return [r for r in resources if kind in [s["code"] for s in r["subtype"]]]


def test_every_resource_is_a_fhir_audit_event(leaves: list[bytes], audit_events: Records) -> None:
    assert len(audit_events) == len(leaves)
    for resource in audit_events:
        AuditEvent.model_validate(resource)
    ids = [resource["id"] for resource in audit_events]
    assert len(set(ids)) == len(ids)
    assert all(len(one) <= 64 for one in ids)


def test_site_is_the_source_of_its_update(audit_events: Records) -> None:
    update = of_kind(audit_events, "update")[0]
    assert update["type"]["code"] == "110106"
    assert {"transmit", "update"} == {s["code"] for s in update["subtype"]}
    first = update["agent"][0]
    assert first["who"]["identifier"] == {"system": "urn:wardround:site", "value": "east"}
    assert first["type"]["coding"][0]["code"] == "110153"
    assert [agent["requestor"] for agent in update["agent"]] == [True, False]
    details = {d["type"]: d["valueString"] for d in update["entity"][0]["detail"]}
    assert details["size"] == "244000"
    assert details["statement_sequence"] == "4"
    assert update["purposeOfEvent"][0]["coding"][0]["code"] == "HRESCH"


def test_call_follows_the_balp_read_pattern(audit_events: Records) -> None:
    calls = of_kind(audit_events, "read")
    assert len(calls) == 3
    profile = ["https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.Read"]
    for call in calls[:2]:
        assert call["meta"]["profile"] == profile
        assert (call["type"]["code"], call["action"], call["outcome"]) == ("rest", "R", "0")
        kinds = [agent["type"]["coding"][0]["code"] for agent in call["agent"]]
        assert kinds == ["110152", "110153", "IRCP"]
        assert all("network" in agent for agent in call["agent"][:2])
        assert "network" not in call["agent"][2]
        assert call["entity"][0]["role"]["code"] in {"3", "4", "20"}


def test_refused_call_claims_no_profile(audit_events: Records) -> None:
    refused = of_kind(audit_events, "read")[2]
    assert "meta" not in refused
    assert (refused["outcome"], refused["outcomeDesc"]) == ("4", "denied")


def test_refusal_and_fault_tell_why(audit_events: Records) -> None:
    assert of_kind(audit_events, "refusal")[0]["outcomeDesc"] == "Commercial use is not excluded"
    fault = of_kind(audit_events, "fault")[0]
    assert (fault["outcome"], fault["outcomeDesc"]) == ("8", "connection reset while sending")


@pytest.mark.parametrize(
    ("method", "code", "action", "client"),
    [
        ("POST", "create", "C", "110153"),
        ("PUT", "update", "U", "110153"),
        ("PATCH", "patch", "U", "110153"),
        ("DELETE", "delete", "D", "110150"),
        ("OPTIONS", "access", "E", "AUT"),
    ],
)
def test_other_calls(method: str, code: str, action: str, client: str) -> None:
    access = events.Access("http", method, "/runs", "allowed", 200, "", "")
    (line,) = fhir_lines([to_leaf(access, 1, "p-1")], ORIGIN, 40)
    resource = json.loads(line)
    AuditEvent.model_validate(resource)
    assert (resource["subtype"][0]["code"], resource["action"]) == (code, action)
    assert resource["agent"][0]["type"]["coding"][0]["code"] == client
    assert resource["entity"][0]["what"]["identifier"]["value"] == "40"
    assert resource["recorded"] == "1970-01-01T00:00:00.001Z"


def test_unreadable_entry_is_an_alert_not_a_gap(leaves: list[bytes]) -> None:
    damaged = [leaves[0], b"\xff\n{}", leaves[2]]
    resources = [json.loads(line) for line in fhir_lines(damaged, ORIGIN)]
    AuditEvent.model_validate(resources[1])
    assert resources[1]["outcome"] == "8"
    assert [r["entity"][0]["what"]["identifier"]["value"] for r in resources] == ["0", "1", "2"]
    record = json.loads(list(siem_lines(damaged, ORIGIN))[1])
    assert (record["event"]["kind"], record["event"]["outcome"]) == ("alert", "failure")


def test_siem_records(records: Records, leaves: list[bytes]) -> None:
    assert [record["event"]["sequence"] for record in records] == list(range(len(leaves)))
    update = next(r for r in records if r["event"]["action"] == "update")
    assert update["message"] == "update by east in run run-7f3a round 1"
    assert update["organization"] == {"id": "east"}
    assert update["labels"] == {"signed_by_site": "true"}
    denied = next(r for r in records if r["wardround"].get("status") == "403")
    assert denied["event"]["outcome"] == "failure"
    assert denied["user"] == {"id": "p-77aa"}


def test_siem_goes_on_where_it_ended(leaves: list[bytes]) -> None:
    whole = list(siem_lines(leaves, ORIGIN))
    assert [*siem_lines(leaves[:50], ORIGIN), *siem_lines(leaves[50:], ORIGIN, 50)] == whole


def test_one_ascii_line_an_entry_whatever_a_site_writes() -> None:
    text = 'x"}\\n & مستشفى 😀 {"event"'
    leaf = to_leaf(events.Fault("", 0, 0, "east", "task", text), 1)
    (record,), (resource,) = list(siem_lines([leaf], ORIGIN)), list(fhir_lines([leaf], ORIGIN))
    for line in (record, resource):
        assert line.count(b"\n") == 1
        assert line.isascii()
    assert json.loads(record)["wardround"]["what"] == text
    assert json.loads(resource)["outcomeDesc"] == text


def test_no_long_or_secret_looking_blobs(audit_events: Records) -> None:
    for resource in audit_events:
        for detail in resource["entity"][0]["detail"]:
            assert len(detail["valueString"]) <= 300
