"""What a hospital's operator types: every mistake is one line, every table fits."""

import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from deploy.local import DirectLink, LocalFederation
from tests.commands import WIDTH, Terminal
from tests.system.conftest import CLASSES, PATIENTS, SITES, make_plan

from wardround.client import cli, config, service, site
from wardround.datasets import phantom
from wardround.privacy.events import Approval, Refusal
from wardround.privacy.joining import JoinToken
from wardround.privacy.plan import StudyPlan
from wardround.server.loglink import LogLink

STUDY = "findings"
WITHOUT_A_SITE = (
    *("join wr1.x", "status", "start", "log", "study review", f"study review {STUDY}"),
    *(f"study approve {STUDY} --yes", f"study refuse {STUDY} --reason no", "policy show"),
    *("ledger", "data show images", "report --from 2026-01-01 --to 2026-12-31"),
    *("ledger budget set images --epsilon 1 --delta 1e-5", f"ledger forecast {STUDY}.toml images"),
)
WITHOUT_A_COORDINATOR = ("status", "start", "log", "study review", f"study approve {STUDY} --yes")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """`wardround-site`, as typed."""
    return Terminal(cli.main, monkeypatch, capsys)


@pytest.fixture
def home(command: Terminal, tmp_path: Path) -> Path:
    """A site that was made and has joined nobody."""
    folder = tmp_path / "north"
    assert command("init", "north", "--organisation", "Clinic North", "--home", folder).code == 0
    return folder


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Three sites and a plan that nobody has decided on."""
    folder = tmp_path_factory.mktemp("cli")
    images = folder / "images"
    phantom.images(images, seed=1, patients=PATIENTS, classes=CLASSES, size=16, scanner=0)
    with LocalFederation(folder, dict.fromkeys(SITES, images), epsilon=8.0) as made:
        made.desk.studies.create(make_plan(), made.desk.signer, "researcher")
        yield made


@pytest.fixture
def joined(federation: LocalFederation, monkeypatch: pytest.MonkeyPatch) -> LocalFederation:
    """The same, reached by commands without a network."""
    log = federation.desk.log
    monkeypatch.setattr(
        site, "HttpLink", lambda home, _pins, _signer: DirectLink(LogLink(log, home.name))
    )
    return federation


def folder(federation: LocalFederation, name: str) -> Path:
    return federation.sites[name].home.folder


def token(**changes: str) -> str:
    """A join token of a coordinator that is not there."""
    made = {"url": "https://127.0.0.1:1", "site": "north", "origin": "a.example/log"} | changes
    keys = (b"l" * 32, b"c" * 32, b"s" * 32)
    return JoinToken(made["url"], made["site"], made["origin"], "00" * 32, *keys).to_text()


@pytest.mark.parametrize("line", WITHOUT_A_SITE)
def test_without_a_site_every_command_says_so_in_one_line(
    command: Terminal, tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = command(*line.split(), "--home", tmp_path / "site")
    assert typed.is_one_line_error(), typed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", WITHOUT_A_COORDINATOR)
def test_a_site_that_has_not_joined_is_told_to(command: Terminal, home: Path, line: str) -> None:
    typed = command(*line.split(), "--home", home)
    assert typed.is_one_line_error(), typed
    assert "run: wardround-site join TOKEN" in typed.error


def test_init_makes_a_site_that_admits_nothing_and_never_a_second_one(
    command: Terminal, home: Path
) -> None:
    before = (home / "identity.key").read_bytes()
    again = command("init", "north", "--home", home)
    assert again.is_one_line_error()
    assert "nothing was changed" in again.error
    assert (home / "identity.key").read_bytes() == before
    shown = json.loads(command("policy", "show", "--json", "--home", home).out)
    assert shown["admit"] == []
    assert "No study is admitted" in command("policy", "show", "--home", home).out


@pytest.mark.parametrize(
    "arguments",
    [
        ("North",),
        ("a b",),
        ("x" * 33,),
        ("../x",),
        ("north", "--organisation", 'Clinic "N"'),
        ("north", "--organisation", "Clinic\nNorth"),
        ("north", "--organisation", "<b>Clinic</b>"),
    ],
)
def test_a_name_that_is_none_makes_no_site(
    command: Terminal, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    typed = command("init", *arguments, "--home", tmp_path / "site")
    assert typed.is_one_line_error(), typed
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named_in_one_line(
    command: Terminal, tmp_path: Path, home: Path, joined: LocalFederation
) -> None:
    (tmp_path / "file").touch()
    assert command("init", "west", "--home", tmp_path / "file").is_one_line_error()
    north = folder(joined, "north")
    for option in ("--pin", "--key"):
        typed = command("log", option, tmp_path / "none" / "x", "--home", north)
        assert typed.is_one_line_error(), typed
        assert "none/x" in typed.error


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hello", "not a join token; copy all of it"),
        (token()[:-9], "not a join token; copy all of it"),
        (token(site="south"), "this token is for the site south, this one is north"),
        (token(url="http://127.0.0.1:1"), "names an https address"),
        (token(), "cannot reach the coordinator at https://127.0.0.1:1"),
        (token(url="https://[::1"), "cannot reach the coordinator"),
    ],
)
def test_a_token_that_leads_nowhere_pins_nothing(
    command: Terminal, home: Path, text: str, says: str
) -> None:
    typed = command("join", text, "--home", home)
    assert typed.is_one_line_error(), typed
    assert says in typed.error
    assert not (home / "coordinator.json").exists()
    assert not (home / "ca.pem").exists()


def test_a_site_joins_one_coordinator_for_ever(
    command: Terminal, federation: LocalFederation
) -> None:
    north = folder(federation, "north")
    before = (north / "coordinator.json").read_bytes()
    typed = command("join", token(), "--home", north)
    assert typed.is_one_line_error()
    assert "has joined another coordinator; make a new site folder" in typed.error
    assert (north / "coordinator.json").read_bytes() == before


def test_a_coordinator_that_is_away_is_named(
    command: Terminal, federation: LocalFederation
) -> None:
    north = folder(federation, "north")
    authority = (federation.desk.home.ca_certificate).read_bytes()
    (north / "ca.pem").write_bytes(authority)
    pinned = north / "coordinator.json"
    before = pinned.read_bytes()
    pinned.write_bytes(before.replace(b":9443", b":1"))
    try:
        typed = command("study", "review", "--json", "--home", north)
        assert typed.code == 0
        assert "cannot reach the coordinator" in typed.error
        assert "from this site's own copy" in typed.error
        assert json.loads(typed.out) == []  # it has not heard of the study yet
        typed = command("study", "approve", STUDY, "--yes", "--home", north)
        assert typed.is_one_line_error(), typed
        assert "cannot reach the coordinator" in typed.error
        state = json.loads(command("status", "--json", "--home", north).out)
        assert "cannot reach the coordinator" in state["coordinator_reached"]
        assert state["enrolled"] == "yes"
    finally:
        pinned.write_bytes(before)


def test_a_site_that_is_at_work_is_not_started_again(
    command: Terminal, federation: LocalFederation
) -> None:
    north = config.load(folder(federation, "north"))
    with service._alone(north):
        typed = command("start", "--home", north.folder)
    assert typed.is_one_line_error(), typed
    assert "at work already" in typed.error


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("site.toml", b"\xff"),
        ("site.toml", b"name = 3 ="),
        ("policy.toml", b"[total"),
        ("identity.key", None),
        ("coordinator.json", b"{}"),
        ("site.sqlite3", b"not a database" * 100),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    command: Terminal, home: Path, federation: LocalFederation, file: str, data: bytes | None
) -> None:
    pins = (folder(federation, "north") / "coordinator.json").read_bytes()
    (home / "coordinator.json").write_bytes(pins)
    (home / "ca.pem").write_bytes(federation.desk.home.ca_certificate.read_bytes())
    if data is None:
        (home / file).chmod(0o644)
    else:
        (home / file).write_bytes(data)
        (home / file).chmod(0o600)
    line = ("policy", "show") if file == "policy.toml" else ("log",)
    typed = command(*line, "--home", home)
    assert typed.is_one_line_error(), typed


def test_a_plan_that_the_policy_does_not_admit_is_refused_with_its_rule(
    command: Terminal, joined: LocalFederation, tmp_path: Path
) -> None:
    west = folder(joined, "west")
    policy = west / "policy.toml"
    admits = policy.read_text()
    policy.write_text(config.POLICY)
    try:
        review = command("study", "review", STUDY, "--home", west)
        assert review.code == 0
        assert "The policy refuses it (task)" in " ".join(review.out.split())
        typed = command("study", "approve", STUDY, "--yes", "--home", west)
        assert typed.is_one_line_error(), typed
        assert "the policy admits no study of the task image-classification-2d" in typed.error
    finally:
        policy.write_text(admits)
    assert not _said(joined, "west", Approval)


def test_a_refusal_and_an_approval_are_in_the_log(
    command: Terminal, joined: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    south = folder(joined, "south")
    typed = command("study", "refuse", STUDY, "--reason", "not now", "--home", south)
    assert typed.code == 0
    (refusal,) = _said(joined, "south", Refusal)
    assert isinstance(refusal, Refusal)
    assert (refusal.rule, refusal.reason) == ("operator", "not now")

    monkeypatch.setattr("typer.confirm", lambda _question: False)
    assert command("study", "approve", STUDY, "--home", south).code == 1
    assert _said(joined, "south", Approval) == []
    typed = command("study", "approve", STUDY, "--yes", "--home", south)
    assert (typed.code, "it is in the log" in typed.out) == (0, True)
    (approval,) = _said(joined, "south", Approval)
    assert isinstance(approval, Approval)
    assert approval.plan_digest == make_plan().digest()
    assert approval.approver.startswith("officer-")
    assert os.environ.get("USER", "root") not in approval.approver
    assert joined.desk.studies.get(STUDY).approved == {"south"}


def test_a_study_that_is_not_there_is_named(command: Terminal, joined: LocalFederation) -> None:
    for line in ("study review other", "study approve other --yes"):
        typed = command(*line.split(), "--home", folder(joined, "north"))
        assert typed.is_one_line_error(), typed
        assert "the log has no study 'other'" in typed.error


def test_policy_check_says_which_rule_refuses(
    command: Terminal, joined: LocalFederation, tmp_path: Path, home: Path
) -> None:
    plan = tmp_path / "study.toml"
    drafted = command(
        *("plan", "draft", "--study", "s", "--sites", ",".join(SITES), "--classes", "a,b"),
        *("--output", plan),
    )
    assert drafted.code == 0
    typed = command("policy", "check", plan, "--home", home)
    assert (typed.code, typed.error) == (1, "")
    assert "refused by the rule task" in typed.out
    typed = command("policy", "check", plan, "--home", folder(joined, "north"))
    assert (typed.code, typed.out) == (0, "admitted, on the data set data\n")
    again = command("plan", "draft", "--study", "s", "--sites", "a,b,c", "--classes", "a,b",
                    "--output", plan)  # fmt: skip
    assert again.is_one_line_error()
    assert "exists already" in again.error


def test_a_draft_says_that_batch_norms_become_group_norms(
    command: Terminal, tmp_path: Path
) -> None:
    for model, widths, norms in (("resnet18", "", 20), ("convnet", "4,4", 0)):
        plan = tmp_path / f"{model}.toml"
        typed = command(
            *("plan", "draft", "--study", "s", "--sites", "a,b,c", "--classes", "a,b"),
            *("--model", model, "--widths", widths, "--output", plan),
        )
        assert typed.code == 0, typed
        for text in (plan.read_text(), typed.out):
            assert (f"Its {norms} batch norms" in text) is (norms > 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--sites", "a,b"),
        ("--shape", "1,x,3"),
        ("--model", "no-such"),
        ("--task", "no-such"),
        ("--classes", "one"),
        ("--epsilon", "-1"),
        ("--rounds", "0"),
    ],
)
def test_a_draft_that_makes_no_plan_is_refused_in_one_line(
    command: Terminal, tmp_path: Path, arguments: tuple[str, str]
) -> None:
    plan = tmp_path / "study.toml"
    given = {"--study": "s", "--sites": "a,b,c", "--classes": "a,b", "--output": str(plan)}
    given |= {arguments[0]: arguments[1]}
    typed = command("plan", "draft", *(word for pair in given.items() for word in pair))
    assert typed.is_one_line_error(), typed
    assert not plan.exists()


def test_json_can_be_read(command: Terminal, joined: LocalFederation) -> None:
    north = folder(joined, "north")

    def read(*line: str) -> object:
        typed = command(*line, "--json", "--home", north)
        assert (typed.code, typed.error) == (0, ""), typed
        return json.loads(typed.out)

    state = read("status")
    assert isinstance(state, dict)
    assert (state["coordinator_reached"], state["studies"]) == ("yes", {STUDY: "open"})
    assert read("study", "review") == [{"study": STUDY, "title": "Findings", "approved": False}]
    assert StudyPlan.from_json(read("study", "review", STUDY)) == make_plan()  # type: ignore[arg-type]  # checked there
    admits = read("policy", "show")
    assert isinstance(admits, dict)
    assert admits["admit"][0]["peers"] == list(SITES)
    read("ledger")
    read("data", "list")
    rows = [
        json.loads(line)
        for line in command("log", "--json", "--last", "3", "--home", north).out.splitlines()
    ]
    assert [row["entry"] for row in rows] == sorted(row["entry"] for row in rows)
    assert len(rows) == 3


@pytest.mark.parametrize(
    "line", ["status", "log", "study review", f"study review {STUDY}", "policy show", "ledger",
             "data list"]
)  # fmt: skip
def test_tables_fit(command: Terminal, joined: LocalFederation, line: str) -> None:
    north = joined.sites["north"]
    north.ledger.set_budget("d" * 32, Decimal(8), Decimal("1e-5"))
    typed = command(*line.split(), "--home", north.home.folder)
    assert (typed.code, typed.error) == (0, ""), typed
    assert typed.out.strip()
    assert max(map(len, typed.out.splitlines())) <= WIDTH, typed.out


def test_before_a_site_agrees_it_sees_what_would_leave(
    command: Terminal, joined: LocalFederation
) -> None:
    plan = make_plan()
    text = " ".join(
        command("study", "review", STUDY, "--home", folder(joined, "north")).out.split()
    )
    assert f"one masked vector of {plan.dimension:,} numbers" in text
    assert f"of at most {plan.privacy.target_epsilon} at delta" in text
    assert "with south, west; a sum opens over 3 sites or more" in text
    assert plan.digest() in text.replace(" ", "")


def test_pin_and_keys_for_an_auditor_are_written(
    command: Terminal, joined: LocalFederation, tmp_path: Path
) -> None:
    north = joined.sites["north"]
    north.sync()
    where = ("--pin", tmp_path / "pin", "--key", tmp_path / "key")
    assert command("log", *where, "--home", north.home.folder).code == 0
    assert (tmp_path / "pin").read_bytes() == north.witness.pin()
    assert "north" in (tmp_path / "key").read_text()


def _said(federation: LocalFederation, name: str, kind: type) -> list[object]:
    return [
        leaf.event
        for leaf in federation.leaves()
        if leaf.site == name and isinstance(leaf.event, kind)
    ]
