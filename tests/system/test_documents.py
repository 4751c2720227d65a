"""What the documents tell a person to type exists, with those options."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from wardround.client.cli import app as site
from wardround.privacy.verify.cli import _parser
from wardround.server.cli import app as coordinator

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "deploy/README.md", "datasets/README.md", "server/README.md")
COMMAND = re.compile(r"^(?:\$ )?(wardround-(?:site|coordinator|verify) .*?)(?:\s{2,}#.*)?$")
APPS = {"wardround-site": site, "wardround-coordinator": coordinator}


def commands() -> Iterator[tuple[str, str]]:
    """Every command of a code block, with its document."""
    for name in DOCUMENTS:
        path = ROOT / name
        if not path.exists():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            found = COMMAND.match(line.strip())
            if found:
                yield name, found[1].split(" # ")[0].rstrip("\\ ")


def resolve(words: list[str]) -> click.Command:
    """The command that the words name; fails where there is none."""
    command: click.Command = typer.main.get_command(APPS[words[0]])
    for word in words[1:]:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        inner = command.get_command(click.Context(command), word)
        assert inner is not None, f"{words[0]} has no command {word}"
        command = inner
    return command


def test_the_documents_show_commands() -> None:
    assert len(list(commands())) > 20


@pytest.mark.parametrize(("document", "line"), sorted(set(commands())))
def test_a_command_in_a_document_exists(document: str, line: str) -> None:
    words = shlex.split(line)
    options = {word.split("=")[0] for word in words if word.startswith("--")}
    if words[0] == "wardround-verify":
        known = {option for action in _parser()._actions for option in action.option_strings}
    else:
        command = resolve(words)
        known = {option for parameter in command.params for option in parameter.opts}
        known |= {option for parameter in command.params for option in parameter.secondary_opts}
    assert options <= known | {"--help"}, f"{document}: {line}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_a_document_lead_somewhere(document: str) -> None:
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{document} links to {target}"
