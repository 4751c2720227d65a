"""The tables of legal provisions: what this kind of evidence can support, and what it cannot.

The texts are data (`provisions.toml`) with the date at which each law was read; they are written
for people who judge, and claim nothing about any one run.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from wardround.privacy.presentation.document import (
    Cell,
    Group,
    Section,
    Table,
    columns,
    words,
)

_FILE = Path(__file__).parent / "provisions.toml"


@dataclass(frozen=True, slots=True)
class Provision:
    """One article or paragraph. `see` names sections of the report."""

    number: str
    title: str
    evidence: str
    not_evidence: str
    see: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Law:
    """A law or guideline with the date at which it was read and what was then in motion."""

    name: str
    citation: str
    as_of: date
    status: str
    provisions: tuple[Provision, ...]


@cache
def laws() -> tuple[Law, ...]:
    """Return every law of the tables, in order."""
    with _FILE.open("rb") as file:
        table = tomllib.load(file)
    return tuple(
        Law(
            law["name"],
            law["citation"],
            law["as_of"],
            law["status"],
            tuple(
                Provision(
                    p["number"], p["title"], p["evidence"], p["not_evidence"], tuple(p["see"])
                )
                for p in law["provision"]
            ),
        )
        for law in table["law"]
    )


def provisions_section(headings: Mapping[str, str]) -> Section:
    """Return one table a law; `headings` are the other sections' headings by their ids."""
    intro = words(
        "These tables help to find evidence for a provision. They do not say that a provision "
        "applies or is met. Law changes: each table says as of which date it was read."
    )
    return Section(
        "provisions", "Legal provisions", (intro, *(_group(law, headings) for law in laws()))
    )


def _group(law: Law, headings: Mapping[str, str]) -> Group:
    table = Table(
        f"{law.name}, as of {law.as_of.isoformat()}",
        columns(
            "Provision", "Subject", "This report is evidence of", "It is not evidence of", "See"
        ),
        tuple(
            (
                Cell(p.number),
                Cell(p.title),
                Cell(p.evidence),
                Cell(p.not_evidence),
                Cell("; ".join(headings[name] for name in p.see)),
            )
            for p in law.provisions
        ),
    )
    return Group(law.name, (words(f"{law.citation}. {law.status}"), table))
