"""The log as FHIR R4 AuditEvents (NDJSON), after IHE Basic Audit Log Patterns (BALP).

Calls of an API that succeeded carry the BALP profile of their REST interaction. BALP's disclosure
and consent patterns ask for a patient, and no entry knows one; everything else is therefore a
plain AuditEvent with BALP's agents and entities and claims no profile. Network addresses are not
logged (they would be personal data) and are marked as masked.

Sources: HL7 FHIR R4 AuditEvent; IHE ITI BALP 1.1; DICOM PS3.16, CID 400 (audit event ids).
"""

import json
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from wardround.privacy.events import Access
from wardround.privacy.exports.exported import Exported, exported

Resource: TypeAlias = dict[str, object]

DCM = "http://dicom.nema.org/resources/ontology/DCM"
BALP = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
_EVENT_TYPE = "http://terminology.hl7.org/CodeSystem/audit-event-type"
_ENTITY_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_OBJECT_ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
_PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
_CUSTODIAN = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_LIFECYCLE = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_MASKED = {
    "extension": [
        {
            "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
            "valueCode": "masked",
        }
    ]
}

# DICOM audit event id, FHIR action, and a further subtype (system, code) where one fits.
_APPLICATION = ("110100", "Application Activity")
_EXPORT = ("110106", "Export")
_SECURITY = ("110113", "Security Alert")
_KINDS: dict[str, tuple[tuple[str, str], str, tuple[str, str] | None]] = {
    "enrol": (_SECURITY, "C", (DCM, "110137")),  # user security attributes changed
    "rotate": (_SECURITY, "U", (DCM, "110137")),
    "revoke": (_SECURITY, "D", (DCM, "110137")),
    "approval": (_SECURITY, "E", None),
    "refusal": (_SECURITY, "E", None),
    "unreadable": (_SECURITY, "R", None),
    "update": (_EXPORT, "R", (_LIFECYCLE, "transmit")),
    "recovery_share": (_EXPORT, "R", (_LIFECYCLE, "transmit")),
    "export": (_EXPORT, "R", None),
    "deidentification": (_APPLICATION, "E", (_LIFECYCLE, "deidentify")),
}
# HTTP method: FHIR interaction, action, BALP profile, and the roles of client and server there.
_SOURCE, _DESTINATION = (DCM, "110153"), (DCM, "110152")
_REST: dict[str, tuple[str, str, str, tuple[str, str], tuple[str, str]]] = {
    "GET": ("read", "R", "Read", _DESTINATION, _SOURCE),
    "POST": ("create", "C", "Create", _SOURCE, _DESTINATION),
    "PUT": ("update", "U", "Update", _SOURCE, _DESTINATION),
    "PATCH": ("patch", "U", "Update", _SOURCE, _DESTINATION),
    "DELETE": ("delete", "D", "Delete", (DCM, "110150"), (_CUSTODIAN, "custodian")),
}


def fhir_lines(entries: Iterable[bytes], origin: str, first: int = 0) -> Iterator[bytes]:
    """Yield one AuditEvent (a JSON line with its newline) per raw leaf of the log `origin`.

    `first` is the log index of the first leaf given, for exports that go on where one ended.
    """
    for entry in exported(entries, first):
        line = json.dumps(_resource(entry, origin), ensure_ascii=True, separators=(",", ":"))
        yield line.encode("ascii") + b"\n"


def _resource(entry: Exported, origin: str) -> Resource:
    (code, display), action, further = _KINDS.get(entry.kind, (_APPLICATION, "E", None))
    subtypes: list[Resource] = [_coding("urn:wardround:log-entry", entry.kind)]
    if further is not None:
        subtypes.append(_coding(*further))
    resource: Resource = {
        "resourceType": "AuditEvent",
        "id": f"{entry.index}-{entry.leaf_hash[:32]}",
        "type": {**_coding(DCM, code), "display": display},
        "subtype": subtypes,
        "action": action,
        "recorded": entry.time,
        "outcome": _outcome(entry),
        "agent": _agents(entry, origin),
        "source": {
            "observer": _reference("urn:wardround:log", origin),
            "type": [_coding("http://terminology.hl7.org/CodeSystem/security-source-type", "4")],
        },
        "entity": _entities(entry, origin),
    }
    if entry.leaf and entry.leaf.run:
        resource["purposeOfEvent"] = [{"coding": [_coding(_REASON, "HRESCH")]}]
    if entry.failed:
        resource["outcomeDesc"] = _reason(entry)
    if entry.leaf and isinstance(entry.leaf.event, Access):
        _as_rest(resource, entry, entry.leaf.event, origin)
    return resource


def _as_rest(resource: Resource, entry: Exported, access: Access, origin: str) -> None:
    """Make `resource` follow BALP's pattern for a call of a REST interface."""
    resource["type"] = _coding(_EVENT_TYPE, "rest")
    interaction = _REST.get(access.method.upper())
    if interaction is None or entry.leaf is None:
        return
    name, action, profile, client, server = interaction
    resource["subtype"] = [_coding("http://hl7.org/fhir/restful-interaction", name)]
    resource["action"] = action
    actor = entry.leaf.actor or "unknown"
    user: Resource = {
        "type": _concept(_PARTICIPATION, "IRCP" if action == "R" else "AUT"),
        "who": _reference("urn:wardround:actor", actor),
        "requestor": True,
    }
    if access.role:
        user["role"] = [{"text": access.role}]
    resource["agent"] = [
        {
            "type": _concept(*client),
            "who": {"display": "client of the interface"},
            "requestor": False,
            "network": _MASKED,
        },
        {
            "type": _concept(*server),
            "who": _reference("urn:wardround:log", origin),
            "requestor": False,
            "network": _MASKED,
        },
        user,
    ]
    if not entry.failed:
        resource["meta"] = {"profile": [f"{BALP}{profile}"]}


def _outcome(entry: Exported) -> str:
    """Return FHIR's outcome: 0 success, 4 refused or failed and tried again, 8 serious."""
    if entry.kind in ("unreadable", "fault", "restored"):
        return "8"
    return "4" if entry.failed else "0"


def _reason(entry: Exported) -> str:
    details = entry.details()
    told = (details.get(name, "") for name in ("what", "reason", "outcome"))
    return next((text for text in told if text), f"entry of kind {entry.kind}")


def _agents(entry: Exported, origin: str) -> list[Resource]:
    leaf = entry.leaf
    agents: list[Resource] = []
    if leaf and leaf.statement:
        agents.append(
            {
                "type": _concept(*_SOURCE),
                "who": _reference("urn:wardround:site", leaf.site),
                "requestor": True,
            }
        )
    elif leaf and leaf.actor:
        agents.append(
            {
                "type": _concept(_PARTICIPATION, "AUT"),
                "who": _reference("urn:wardround:actor", leaf.actor),
                "requestor": True,
            }
        )
    agents.append(
        {
            "type": _concept(*_DESTINATION),
            "who": _reference("urn:wardround:log", origin),
            "requestor": not agents,
        }
    )
    return agents


def _entities(entry: Exported, origin: str) -> list[Resource]:
    details = {"leaf-hash": entry.leaf_hash, **entry.details()}
    return [
        {
            "what": {
                "identifier": {
                    "system": f"urn:wardround:log-entry:{origin}",
                    "value": str(entry.index),
                }
            },
            "type": _coding(_ENTITY_TYPE, "2"),
            "role": _coding(_OBJECT_ROLE, "20" if entry.leaf and entry.leaf.run else "3"),
            "detail": [{"type": name, "valueString": text} for name, text in details.items()],
        }
    ]


def _coding(system: str, code: str) -> Resource:
    return {"system": system, "code": code}


def _concept(system: str, code: str) -> Resource:
    return {"coding": [_coding(system, code)]}


def _reference(system: str, value: str) -> Resource:
    return {"identifier": {"system": system, "value": value}}
