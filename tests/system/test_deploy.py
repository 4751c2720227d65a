"""What can be known of the deployment files where no container engine and no service run."""

import configparser
import re
import shutil
import subprocess
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import REPOSITORY
from typer.main import get_command
from typer.testing import CliRunner

from wardround.client import cli as site_cli
from wardround.client import config as site_config
from wardround.client import policy
from wardround.privacy.plan import StudyPlan
from wardround.privacy.planned import PlannedSpend
from wardround.server import cli as coordinator_cli
from wardround.server import config as coordinator_config

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

DEPLOY = REPOSITORY / "deploy"
COMPOSE = DEPLOY / "compose"
EXAMPLES = DEPLOY / "examples"
DOCKERFILES = sorted(COMPOSE.glob("Dockerfile.*"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
SCRIPTS = PROJECT["project"]["scripts"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
APPS = {"wardround-coordinator": coordinator_cli.app, "wardround-site": site_cli.app}


def check_command(program: str, *words: str) -> None:
    """Assert that `program` is installed by this package and knows the command and options."""
    assert program in SCRIPTS
    command: Any = get_command(APPS[program])
    rest = list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    assert not getattr(command, "commands", None), f"{program} {' '.join(words)}"
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known


# -- containers -----------------------------------------------------------------------------------


def compose() -> Any:
    return yaml.safe_load((COMPOSE / "compose.yaml").read_text())


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions and arguments, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", path.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def test_every_service_can_be_built_or_pulled_and_has_a_profile() -> None:
    found = compose()
    for name, service in found["services"].items():
        if build := service.get("build"):
            context = (COMPOSE / build["context"]).resolve()
            assert context == REPOSITORY
            assert (context / build["dockerfile"]) in DOCKERFILES
        else:
            assert re.fullmatch(r"[a-z]+:\d+", service["image"]), name
        assert service["profiles"] in (["coordinator"], ["site"])
        others = {k: v["profiles"] for k, v in found["services"].items()}
        assert all(
            others[needed] == service["profiles"] for needed in service.get("depends_on", ())
        )
    used = {s["build"]["dockerfile"] for s in found["services"].values() if "build" in s}
    assert len(used) == len(DOCKERFILES) == 2


def test_volumes_and_secrets_are_declared() -> None:
    found = compose()
    for service in found["services"].values():
        for volume in service.get("volumes", ()):
            if isinstance(volume, str):
                assert volume.split(":")[0] in found["volumes"]
            else:
                assert volume["read_only"] is True  # a hospital's data
        assert set(service.get("secrets", ())) <= set(found["secrets"])
    for secret in found["secrets"].values():
        name = Path(secret["file"]).name
        assert name in (COMPOSE / ".gitignore").read_text().splitlines()


def test_our_containers_are_confined() -> None:
    ours = [service for service in compose()["services"].values() if "build" in service]
    for service in ours:
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_only_the_public_port_is_published() -> None:
    ports = {name: s["ports"] for name, s in compose()["services"].items() if "ports" in s}
    public = coordinator_config.load(EXAMPLES).port
    assert ports == {"coordinator": [f"{public}:{public}"]}
    exposed = [
        args for word, args in instructions(COMPOSE / "Dockerfile.coordinator") if word == "EXPOSE"
    ]
    assert exposed == [str(public)]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_names_only_what_exists(path: Path) -> None:
    program = f"wardround-{path.suffix[1:]}"
    steps = instructions(path)
    stages = [args.split(" AS ")[1] for word, args in steps if word == "FROM" and " AS " in args]
    for word, args in steps:
        if word == "COPY" and not args.startswith("--from="):
            assert args == ". ."
        elif word == "COPY":
            assert args.split()[0].removeprefix("--from=") in stages
        elif word == "RUN":
            for extras in re.findall(r"'\.\[([\w,]+)\]'", args):
                assert set(extras.split(",")) <= set(EXTRAS)
            for constraint in re.findall(r"--constraint (\S+)", args):
                assert (REPOSITORY / constraint).is_file()
            for pinned in re.findall(r"\S+==\S+", args):
                assert pinned in (REPOSITORY / "constraints.txt").read_text().splitlines()
    last = dict(steps)
    assert int(last["USER"]) > 0
    entry, command = (re.findall(r'"([^"]+)"', last[word]) for word in ("ENTRYPOINT", "CMD"))
    assert entry == [program]
    check_command(program, *command)
    home = {"coordinator": coordinator_config, "site": site_config}[path.suffix[1:]]
    assert Path(str(home.__file__)).read_text().count(last["ENV"].split()[-1].split("=")[0]) > 0
    assert last["ENV"].split("=")[-1].startswith(last["VOLUME"])
    bases = {args.split()[0] for word, args in steps if word == "FROM"}
    (version,) = {re.fullmatch(r"python:3\.(\d+)-slim", base)[1] for base in bases}  # type: ignore[index]  # it must match
    assert PROJECT["project"]["requires-python"] == f">=3.{version}"


def test_the_build_sees_the_package_and_nothing_else() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    seen = {line[1:] for line in lines if line.startswith("!")}
    assert all((REPOSITORY / name).exists() for name in seen)
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert seen == {
        *(package.split("/")[0] for package in wheel),
        *("LICENSE", "README.md", "constraints.txt", "pyproject.toml"),
    }


# -- services -------------------------------------------------------------------------------------


def settings(path: Path) -> configparser.ConfigParser:
    """Read a unit; a key that stands twice is refused."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # keys keep their case
    parser.read_string(path.read_text())
    return parser


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_our_program_confined_and_for_ever(path: Path) -> None:
    unit = settings(path)
    service = unit["Service"]
    program, *words = service["ExecStart"].split()
    assert Path(program).name == path.stem
    check_command(path.stem, *words)
    assert service["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert service["User"] == "wardround"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    name, home = service["Environment"].split("=")
    assert home.startswith(service["ReadWritePaths"])
    module = coordinator_config if path.stem.endswith("coordinator") else site_config
    assert f'"{name}"' in Path(str(module.__file__)).read_text()


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_a_unit(path: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / path.stem
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace(f"/opt/wardround/bin/{path.stem}", str(program)))
    done = subprocess.run(
        [analyze, "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# -- examples -------------------------------------------------------------------------------------


def test_the_coordinators_example_is_its_template() -> None:
    home = coordinator_config.load(EXAMPLES)
    assert (home.host, home.bind) == ("wardround.example.org", "0.0.0.0")  # noqa: S104  # an example
    assert home.rounds == coordinator_config.Rounds()
    assert (EXAMPLES / "config.toml").read_text() == coordinator_config.CONFIG.format(
        origin=home.origin, host=home.host, bind=home.bind, port=home.port,
        internal_port=home.internal_port,
    )  # fmt: skip


def test_the_sites_example_is_its_template() -> None:
    home = site_config.load(EXAMPLES)
    assert (home.name, home.device) == ("north", "cpu")
    assert (EXAMPLES / "site.toml").read_text() == site_config.SITE.format(
        name=home.name, organisation=home.organisation
    )


def test_the_example_policy_admits_the_example_study() -> None:
    plan = StudyPlan.from_toml((EXAMPLES / "study.toml").read_text())
    rules = policy.load(EXAMPLES / "policy.toml")
    block = rules.admit(plan, today=date(2027, 1, 1))
    assert block.data == "chest"
    assert site_config.load(EXAMPLES).name in plan.participants.sites
    cost = PlannedSpend.of_plan(plan).cost()
    assert 0 < float(cost.text) <= plan.privacy.target_epsilon


def test_the_example_study_is_what_draft_writes(tmp_path: Path) -> None:
    plan = StudyPlan.from_toml((EXAMPLES / "study.toml").read_text())
    made = tmp_path / "study.toml"
    words = (
        *("plan", "draft", "--study", plan.study.id, "--title", plan.study.title),
        *("--sites", ",".join(plan.participants.sites), "--classes", ",".join(plan.task.classes)),
        *("--purpose", plan.study.purpose, "--legal-basis", plan.study.legal_basis),
        *("--output", str(made)),
    )
    done = CliRunner().invoke(site_cli.app, words)
    assert done.exit_code == 0, done.output
    assert made.read_text() == (EXAMPLES / "study.toml").read_text()


# -- what the README tells to type ----------------------------------------------------------------


def typed() -> list[list[str]]:
    """Return every command of ours that README.md has, program first, as words."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "README.md").read_text())
    found = []
    for line in text.splitlines():
        words = line.split("   #")[0].split()
        if not line.startswith("    ") or "--entrypoint" in words:
            continue
        if "run" in words:
            service = words[words.index("--rm") + 1]
            found.append([f"wardround-{service}", *words[words.index(service, 5) + 1 :]])
        for place, word in enumerate(words):
            if Path(word).name in APPS and words[0] != "systemctl":
                found.append([Path(word).name, *words[place + 1 :]])
    return found


def test_commands_told_exist() -> None:
    commands = typed()
    assert len(commands) >= 5
    for program, *words in commands:
        check_command(program, *words)


def test_the_line_that_names_the_database_finds_its_place() -> None:
    readme = (DEPLOY / "README.md").read_text()
    assert r"s#^url = \"\"#url = \"postgresql+psycopg://wardround:" in readme
    config = (EXAMPLES / "config.toml").read_text()
    changed, count = re.subn(
        r'^url = ""', 'url = "postgresql+psycopg://wardround:x@database/wardround"', config,
        flags=re.MULTILINE,
    )  # fmt: skip
    assert count == 1
    database = compose()["services"]["database"]["environment"]
    assert database["POSTGRES_USER"] == database["POSTGRES_DB"] == "wardround"
    url = tomllib.loads(changed)["database"]["url"]
    assert url.endswith("@database/wardround")
