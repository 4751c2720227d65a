"""The site's folder: private, made once, and every wrong setting named."""

import stat
from pathlib import Path

import pytest

from wardround.client import config
from wardround.client.config import Pins
from wardround.client.errors import ConfigInvalid, SiteStateError
from wardround.privacy.errors import KeyFileError, MalformedData

PINS = Pins("https://a.example:9443", "a.example/log", b"l" * 32, b"c" * 32)
KEYS = ("identity.key", "witness.key", "data.key", "supernode.key")


@pytest.fixture
def home(tmp_path: Path) -> config.Home:
    """A site that was made."""
    return config.create(tmp_path / "north", "north", "Clinic North")


def test_a_new_site_is_private_and_its_keys_differ(home: config.Home) -> None:
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700
    for name in KEYS:
        assert stat.S_IMODE((home.folder / name).stat().st_mode) == 0o600, name
    keys = home.public_keys()
    assert keys.site == "north"
    assert len({keys.identity, keys.witness, keys.supernode}) == 3
    assert keys.supernode.startswith(b"-----BEGIN PUBLIC KEY-----")
    assert len(home.data_key()) == 32


def test_two_sites_of_one_name_have_other_keys(home: config.Home, tmp_path: Path) -> None:
    other = config.create(tmp_path / "other", "north", "Clinic North")
    assert other.public_keys().fingerprint() != home.public_keys().fingerprint()
    assert other.data_key() != home.data_key()


def test_what_was_made_is_read_back(home: config.Home) -> None:
    assert config.load(home.folder) == home
    assert (home.name, home.organisation) == ("north", "Clinic North")
    assert (home.threads, home.device, home.port) == (0, "cpu", 0)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("threads = 0", "threads = -1", "threads must be a whole number"),
        ("threads = 0", "threads = true", "threads must be a whole number"),
        ("threads = 0", 'threads = "2"', "threads must be a whole number"),
        ("port = 0", "port = 65536", "port must be a whole number"),
        ("port = 0", "ports = 0", "unknown setting start.ports"),
        ("name =", "nam =", "unknown setting 'nam'"),
        ('name = "north"', 'name = "North"', "is not a site name"),
        ('name = "north"', "", "is not a site name"),
        ("[start]", "[start", "not valid TOML"),
        ("[start]", "start = 3\n[begin]", "unknown setting 'begin'"),
    ],
)
def test_a_wrong_setting_is_named(home: config.Home, old: str, new: str, says: str) -> None:
    path = home.folder / "site.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigInvalid, match=says) as caught:
        config.load(home.folder)
    assert "\n" not in str(caught.value)


def test_a_setting_that_should_be_a_table_is_named(home: config.Home) -> None:
    (home.folder / "site.toml").write_text('name = "north"\nstart = 3\n')
    with pytest.raises(ConfigInvalid, match="start must be a table"):
        config.load(home.folder)


def test_settings_may_be_left_out(home: config.Home) -> None:
    (home.folder / "site.toml").write_text('name = "north"\n')
    assert config.load(home.folder).threads == 0


def test_a_folder_without_a_site_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="make one with: wardround-site init"):
        config.load(tmp_path)


def test_pins_come_back_as_they_were(home: config.Home) -> None:
    assert Pins.from_bytes(PINS.to_bytes()) == PINS
    with pytest.raises(SiteStateError, match="has not joined a coordinator"):
        home.pins()
    (home.folder / "coordinator.json").write_bytes(PINS.to_bytes())
    assert home.pins() == PINS


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", PINS.to_bytes()[:-1], PINS.to_bytes().replace(b"6c", b"zz")]
)
def test_damaged_pins_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedData):
        Pins.from_bytes(data)


@pytest.mark.parametrize("name", ["identity.key", "witness.key", "data.key"])
def test_a_key_that_others_can_read_is_refused(home: config.Home, name: str) -> None:
    (home.folder / name).chmod(0o640)
    with pytest.raises(KeyFileError):
        _ = (home.identity(), home.witness(), home.data_key())


def test_keys_are_locked_with_a_passphrase_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARDROUND_PASSPHRASE", "correct horse")
    home = config.create(tmp_path / "locked", "locked", "Clinic")
    before = home.public_keys()
    assert config.load(home.folder).public_keys() == before
    for wrong in ("wrong", None):
        if wrong is None:
            monkeypatch.delenv("WARDROUND_PASSPHRASE")
        else:
            monkeypatch.setenv("WARDROUND_PASSPHRASE", wrong)
        with pytest.raises(KeyFileError):
            home.identity()


def test_the_policy_of_a_new_site_admits_nothing_and_can_be_read(home: config.Home) -> None:
    from wardround.client import policy

    assert policy.load(home.policy).admissions == ()
