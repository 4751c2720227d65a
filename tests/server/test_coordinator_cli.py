"""What the operator of a coordinator types: every mistake is one line, every table fits."""

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from tests.commands import WIDTH, Terminal
from tests.server.newcomer import newcomer, offer

from wardround.privacy.events import Enrol, from_leaf
from wardround.privacy.model import TensorLayout
from wardround.privacy.plan import (
    Model,
    Participants,
    Privacy,
    SecureAggregation,
    Study,
    StudyPlan,
    Task,
    Training,
)
from wardround.server import cli, config, guard
from wardround.server.desk import Desk
from wardround.server.errors import StudyError
from wardround.server.operations import RunRecord

LONG = ("a" * 32, "b-" * 15 + "b", "north")
PLAN = StudyPlan(
    study=Study("s" * 32, "A study with a rather long title " * 3, "to test " * 20, "none"),
    task=Task("tabular", ("no", "yes"), (5,)),
    model=Model("mlp", 1, (TensorLayout("weight", (7,)),)),
    training=Training(4, "local_steps", 2, "adamw", Decimal("0.05")),
    privacy=Privacy(
        *("patient", "add-remove", Decimal(1), Decimal("1.1"), Decimal("0.25")),
        *(Decimal(3), Decimal("1e-5")),
    ),
    secure_aggregation=SecureAggregation(3, 1, 3, 500, Decimal(1)),
    participants=Participants(LONG),
)
COMMANDS = (
    *("status", "serve", "sites", "enrol north", "approve north", "revoke north --reason lost"),
    *("study show s", "study list", "study start s", "study stop s", "study status s"),
    *("study watch s", "study model s --output m.npz", "report s", "bundle s --output b.zip"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> config.Home:
    """A coordinator with three sites, two more on their way, one revoked, a study and its run."""
    made = config.create(
        tmp_path_factory.mktemp("cli") / "coordinator",
        origin="cli.example/wardround",
        host="127.0.0.1",
        bind="127.0.0.1",
        port=1,
        internal_port=2,
    )
    with Desk.open(made) as desk:
        for site in LONG:
            newcomer(desk, site).join()
        waiting, token = newcomer(desk, "waiting"), offer(desk, "waiting")
        desk.enrolment.receive(token.secret, waiting.enrolment())
        offer(desk, "offered")
        newcomer(desk, "gone").join()
        desk.enrolment.revoke("gone", "key lost", "officer")
        desk.studies.create(PLAN, desk.signer, "researcher")
        with desk.studies.editing(_ask_for_run(desk)) as row:
            row.status, row.round, row.note = "failed", 2, "a site " * 40
    return made


def _ask_for_run(desk: Desk) -> str:
    """A run, though nobody has approved the plan."""
    from sqlalchemy.orm import Session

    run = f"{PLAN.study.id}-0011aabb"
    text = dict.fromkeys(("stage", "model", "optimiser", "note"), "")
    with Session(desk.engine) as database, database.begin():
        database.add(
            RunRecord(
                run=run,
                study=PLAN.study.id,
                status="requested",
                round=0,
                attempt=0,
                aggregator=b"",
                created_ms=1,
                updated_ms=1,
                **text,
            )
        )
    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """`wardround-coordinator`. The guard is for processes of the coordinator alone."""
    monkeypatch.setattr(guard, "install", lambda: None)
    return Terminal(cli.main, monkeypatch, capsys)


@pytest.mark.parametrize("line", COMMANDS)
def test_without_a_coordinator_every_command_says_how_to_make_one(
    command: Terminal, tmp_path: Path, line: str
) -> None:
    typed = command(*line.split(), "--home", tmp_path)
    assert typed.is_one_line_error(), typed
    assert "make one with: wardround-coordinator init" in typed.error
    assert list(tmp_path.iterdir()) == []


MISTAKES = {
    "approve nobody": "no request of 'nobody' waits",
    "enrol north": "north is enrolled already",
    "enrol No-Name": "name",
    "revoke nobody --reason lost": "no site 'nobody' is enrolled",
    "revoke north --reason lost --compromised-since yesterday": "is not a day like",
    "study show nothing": "there is no study 'nothing'",
    "study start nothing": "there is no study 'nothing'",
    f"study start {PLAN.study.id}": "has not approved this plan",
    f"study stop {PLAN.study.id}": "no run of",
    "study status nothing": "has no run; start one",
    "study watch nothing": "has no run; start one",
    "study model nothing --output m.npz": "has a model yet",
    "study create missing.toml": "cannot read missing.toml",
    "study create .": "cannot read",
    "report nothing": "the log holds no run",
    "bundle nothing --output b.zip": "the log holds no run",
    f"bundle {PLAN.study.id} --output b.zip": "the log holds no run",
}


@pytest.mark.parametrize("line", sorted(MISTAKES))
def test_a_mistake_ends_in_one_line(
    command: Terminal,
    home: config.Home,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = command(*line.split(), "--home", home.folder)
    assert typed.is_one_line_error(), typed
    assert MISTAKES[line] in typed.error
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_has_an_exit_code_of_its_own(command: Terminal) -> None:
    assert command("enrol").code == 2
    assert command("sites", "--colour").code == 2
    assert command("study", "begin").code == 2


def test_a_plan_that_is_none_is_refused_in_one_line(
    command: Terminal, home: config.Home, tmp_path: Path
) -> None:
    plan = tmp_path / "study.toml"
    for text in ("not toml", "[study]\nid = 3\n", '[study]\nid = "a"\n'):
        plan.write_text(text)
        assert command("study", "create", plan, "--home", home.folder).is_one_line_error()
    plan.write_bytes(b"\xff\xfe")
    assert command("study", "create", plan, "--home", home.folder).is_one_line_error()


def test_a_folder_that_cannot_be_written_is_named_in_one_line(
    command: Terminal, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        typed = command("init", "--host", "127.0.0.1", "--home", home)
        assert typed.is_one_line_error(), typed
        assert "file" in typed.error


def test_init_makes_a_coordinator_and_never_a_second_one(command: Terminal, tmp_path: Path) -> None:
    home = tmp_path / "coordinator"
    typed = command("init", "--host", "127.0.0.1", "--home", home)
    assert typed.code == 0
    assert "fingerprint" in typed.out
    before = (home / "log.key").read_bytes()
    again = command("init", "--host", "127.0.0.1", "--home", home)
    assert again.is_one_line_error()
    assert "nothing was changed" in again.error
    assert (home / "log.key").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("port = 1\n", 'port = "1"\n', "is not a port"),
        ("port = 1\n", "port = 70000\n", "is not a port"),
        ("port = 1\n", "port = true\n", "is not a port"),
        ("[rounds]", "[round]", "unknown setting 'round'"),
        ("patience = 600", "patience = 0", "patience must be a whole number above 0"),
        ("patience = 600", "patience = true", "patience must be a whole number above 0"),
        ("patience = 600", "patients = 600", "unknown setting"),
        ("attempts = 5", "attempts = ", "not valid TOML"),
        ("origin =", "name =", "unknown setting 'name'"),
        ('host = "', 'hose = "', "lacks the setting 'host'"),
        ("[public]", "public = 3\n[rounds.public]", "public must be a table"),
        ("[rounds]", "rounds = 3\n[other]", "unknown setting"),
    ],
)
def test_a_wrong_setting_is_named(
    command: Terminal, home: config.Home, tmp_path: Path, old: str, new: str, says: str
) -> None:
    text = (home.folder / "config.toml").read_text()
    assert old in text
    (tmp_path / "config.toml").write_text(text.replace(old, new))
    typed = command("sites", "--home", tmp_path)
    assert typed.is_one_line_error(), typed
    assert says in typed.error


def test_the_rounds_table_must_be_one(home: config.Home, tmp_path: Path) -> None:
    text = (home.folder / "config.toml").read_text()
    head = text[: text.index("[rounds]")]
    (tmp_path / "config.toml").write_text("rounds = 3\n" + head)
    with pytest.raises(config.ConfigInvalid, match="rounds must be a table"):
        config.load(tmp_path)


def test_a_key_that_others_can_read_is_refused_in_one_line(
    command: Terminal, tmp_path: Path
) -> None:
    home = tmp_path / "coordinator"
    command("init", "--host", "127.0.0.1", "--home", home)
    (home / "log.key").chmod(0o644)
    assert command("sites", "--home", home).is_one_line_error()
    (home / "log.key").unlink()
    assert command("sites", "--home", home).is_one_line_error()


def test_a_database_that_is_none_is_named_in_one_line(command: Terminal, tmp_path: Path) -> None:
    home = tmp_path / "coordinator"
    command("init", "--host", "127.0.0.1", "--home", home)
    for path in home.glob("coordinator.sqlite3*"):
        path.unlink()
    (home / "coordinator.sqlite3").write_bytes(b"not a database" * 100)
    typed = command("sites", "--home", home)
    assert typed.is_one_line_error(), typed


def test_json_can_be_read(command: Terminal, home: config.Home) -> None:
    def read(*line: str) -> list[dict[str, object]]:
        typed = command(*line, "--json", "--home", home.folder)
        assert typed.error == ""
        return [json.loads(each) for each in typed.out.splitlines()]

    sites = {row["site"]: row["status"] for row in read("sites")}
    assert sites == {
        **dict.fromkeys(LONG, "approved"),
        "waiting": "pending",
        "offered": "token made",
        "gone": "revoked",
    }
    (study,) = read("study", "list")
    assert (study["study"], study["round"], study["approved"]) == (PLAN.study.id, 2, [])
    (run,) = read("study", "status", PLAN.study.id)
    assert (run["status"], run["round"]) == ("failed", 2)
    (shown,) = read("study", "show", PLAN.study.id)
    assert StudyPlan.from_json(shown) == PLAN
    (state,) = read("status")
    assert state["serving"] is False


def test_tables_fit_and_no_fingerprint_is_cut(command: Terminal, home: config.Home) -> None:
    for line in ("sites", "study list", f"study show {PLAN.study.id}", "status"):
        typed = command(*line.split(), "--home", home.folder)
        assert typed.out
        assert max(map(len, typed.out.splitlines())) <= WIDTH, typed.out
        if line == "sites":
            with Desk.open(home) as desk:
                prints = [row.fingerprint for row in desk.enrolment.rows()]
            assert all(each in typed.out for each in prints), typed.out
            assert "north" in typed.out
        if line == "study list":
            assert "0 of 3" in typed.out
            assert "\u2026" not in typed.out


def test_a_coordinator_that_does_not_serve_is_told_so(command: Terminal, home: config.Home) -> None:
    typed = command("status", "--home", home.folder)
    assert typed.code == 1
    assert "not serving; start it with: wardround-coordinator serve" in " ".join(typed.out.split())


def test_a_site_is_let_in_from_token_to_approval(
    command: Terminal, home: config.Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = command("enrol", "fresh", "--token-only", "--home", home.folder).out.strip()
    with Desk.open(home) as desk:
        site = newcomer(desk, "fresh")
        from wardround.privacy.joining import JoinToken

        desk.enrolment.receive(JoinToken.from_text(token).secret, site.enrolment())
    monkeypatch.setattr("typer.confirm", lambda _question: False)
    assert command("approve", "fresh", "--home", home.folder).code == 1
    typed = command("approve", "fresh", "--yes", "--home", home.folder)
    assert typed.code == 0
    with Desk.open(home) as desk:
        leaves = [from_leaf(leaf) for leaf in desk.log.entries(0, desk.log.size())]
        (leaf,) = [each for each in leaves if each.event == site.event()]
        assert isinstance(leaf.event, Enrol)
        assert leaf.actor.startswith("actor-")
        assert desk.enrolment.federation().sites["fresh"].fingerprint() in typed.out


def test_a_plan_that_no_run_could_be_made_of_is_refused(home: config.Home) -> None:
    others = replace(PLAN, participants=Participants(("a", "b", "gone")))
    classes = tuple(f"class-{number}" for number in range(100))
    large = replace(PLAN, task=Task("segmentation-3d", classes, (1, 8, 8, 8)))
    for plan, says in ((others, "site 'a' is not enrolled"), (large, "counters")):
        plan = replace(plan, study=replace(PLAN.study, id="other"))
        with Desk.open(home) as desk, pytest.raises(StudyError, match=says):
            desk.studies.create(plan, desk.signer, "researcher")
