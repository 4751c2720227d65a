"""The site's folder: site.toml with comments, keys, what was pinned when the site joined."""

import os
import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path

from wardround.client.errors import ConfigInvalid, SiteStateError
from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData
from wardround.privacy.identity import (
    FileSigner,
    SiteKeys,
    check_site_name,
    read_private,
    write_private,
)

SITE = """\
# Wardround site. Every setting, with what it does; the file is read at `start`.

# The name under which this site is enrolled: a-z, 0-9 and inner hyphens.
name = "{name}"

# Who runs the site, as the log and the reports show it. No person's name.
organisation = "{organisation}"

[start]
# Processor threads for training. 0: all there are.
threads = 0
# "cpu", "cuda" or "cuda:0". The same code runs on each.
device = "cpu"
# Port of the SuperNode's own API on loopback. 0: any free one.
port = 0
"""

POLICY = """\
# What this site takes part in. Nothing is admitted that is not written here.
# Check a plan against it: wardround-site policy check study.toml

# Budget of all studies together on one data set, in epsilon at a delta. Spent by every run, for
# ever; the ledger refuses what would go beyond. A data set gets it when its first study is
# approved; change it afterwards with: wardround-site ledger budget set
[total]
epsilon = 8.0
delta = 1e-5

# One block for each kind of study that may run. Remove the "#" and fill in.
# [[admit]]
# task = "image-classification-2d"   # kind of task
# data = "chest"                      # data set here (wardround-site data list)
# epsilon = 3.0                       # at most, for one study
# delta = 1e-5                        # at most
# unit = "patient"                    # what is protected: "patient", or "image" if you allow that
# min_cohort = 3                      # a sum over fewer sites than this is refused
# min_patients = 20                   # refuse while the data set has fewer patients
# peers = ["north", "south", "west"]  # sites it may run with; this site included
# shared_noise = false                # allow noise that is complete only in the sum
# require_group_mode = false          # true: refuse plans whose sums the coordinator can read
# expires = 2027-12-31                # nothing runs after that day
"""


@dataclass(frozen=True, slots=True)
class Pins:
    """What a site fixed when it joined: nothing of this ever comes from a later message.

    `log_public` and `coordinator_public` are 32 raw bytes (Ed25519).
    """

    url: str
    origin: str
    log_public: bytes
    coordinator_public: bytes

    def to_bytes(self) -> bytes:
        """Return the pins as canonical JSON."""
        return canonical.dumps(
            {
                "url": self.url,
                "origin": self.origin,
                "log_public": self.log_public.hex(),
                "coordinator_public": self.coordinator_public.hex(),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Pins":
        """Read what `to_bytes` wrote; MalformedData for anything else."""
        value = canonical.loads_object(data)
        try:
            return cls(
                str(value["url"]),
                str(value["origin"]),
                bytes.fromhex(str(value["log_public"])),
                bytes.fromhex(str(value["coordinator_public"])),
            )
        except (KeyError, ValueError):
            raise MalformedData("the pinned coordinator is damaged; join again") from None


@dataclass(frozen=True, slots=True)
class Home:
    """The site's folder and what site.toml says."""

    folder: Path
    name: str
    organisation: str
    threads: int
    device: str
    port: int

    @property
    def database(self) -> Path:
        """The site's SQLite database."""
        return self.folder / "site.sqlite3"

    @property
    def policy(self) -> Path:
        """The policy file."""
        return self.folder / "policy.toml"

    @property
    def ca_certificate(self) -> Path:
        """Certificate of the coordinator's authority, pinned at `join`."""
        return self.folder / "ca.pem"

    @property
    def supernode_key(self) -> Path:
        """EC P-384 private key of the SuperNode."""
        return self.folder / "supernode.key"

    @property
    def supernode_public(self) -> Path:
        """Public key of the SuperNode."""
        return self.folder / "supernode.pub"

    @property
    def models(self) -> Path:
        """Global models of runs, and in group mode what they are made from, mode 0700."""
        return self.folder / "models"

    @property
    def scratch(self) -> Path:
        """Encoded updates of rounds under way; private, removed with their round."""
        return self.folder / "rounds"

    def identity(self) -> FileSigner:
        """Return the key that signs the site's statements."""
        return FileSigner.load(self.folder / "identity.key", _passphrase())

    def witness(self) -> FileSigner:
        """Return the key that cosigns checkpoints."""
        return FileSigner.load(self.folder / "witness.key", _passphrase())

    def data_key(self) -> bytes:
        """Return the 32-byte key under which patients' identifiers become pseudonyms."""
        return read_private(self.folder / "data.key")

    def public_keys(self) -> SiteKeys:
        """Return the site's three public keys."""
        return SiteKeys(
            self.name,
            self.identity().public_bytes(),
            self.witness().public_bytes(),
            self.supernode_public.read_bytes(),
        )

    def pins(self) -> Pins:
        """Return what was pinned at `join`; SiteStateError when the site has not joined."""
        try:
            return Pins.from_bytes((self.folder / "coordinator.json").read_bytes())
        except FileNotFoundError:
            raise SiteStateError(
                "this site has not joined a coordinator; run: wardround-site join TOKEN"
            ) from None


def default_home() -> Path:
    """Return WARDROUND_SITE_HOME, else ./site."""
    return Path(os.environ.get("WARDROUND_SITE_HOME", "site"))


def _passphrase() -> str | None:
    return os.environ.get("WARDROUND_PASSPHRASE")


def create(folder: Path, name: str, organisation: str) -> Home:
    """Make the site's folder: keys, site.toml, policy.toml (which admits nothing).

    With WARDROUND_PASSPHRASE set, the signing keys are locked with it. Raises ConfigInvalid when
    the folder holds a site already.
    """
    from wardround.client.supernode import create_node_key

    check_site_name(name)
    if (folder / "site.toml").exists():
        raise ConfigInvalid(f"{folder} is a site's folder already; nothing was changed")
    if not organisation.isprintable() or any(c in organisation for c in '"\\<>'):
        raise ConfigInvalid("the organisation must be one line without quotes or markup")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    FileSigner.create(folder / "identity.key", _passphrase())
    FileSigner.create(folder / "witness.key", _passphrase())
    write_private(folder / "data.key", secrets.token_bytes(32))
    (folder / "supernode.pub").write_bytes(create_node_key(folder / "supernode.key"))
    (folder / "rounds").mkdir(mode=0o700)
    (folder / "site.toml").write_text(SITE.format(name=name, organisation=organisation))
    (folder / "policy.toml").write_text(POLICY)
    return load(folder)


def load(folder: Path) -> Home:
    """Read the site's folder; ConfigInvalid says which setting is missing or wrong."""
    try:
        table = tomllib.loads((folder / "site.toml").read_text())
    except FileNotFoundError:
        raise ConfigInvalid(f"no site in {folder}; make one with: wardround-site init") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"site.toml is not valid TOML: {error}") from None
    start = table.get("start", {})
    if unknown := sorted(set(table) - {"name", "organisation", "start"}):
        raise ConfigInvalid(f"site.toml has an unknown setting {unknown[0]!r}")
    if not isinstance(start, dict):
        raise ConfigInvalid("site.toml: start must be a table: [start]")
    if unknown := sorted(set(start) - {"threads", "device", "port"}):
        raise ConfigInvalid(f"site.toml has an unknown setting start.{unknown[0]}")
    home = Home(
        folder=folder.resolve(),
        name=str(table.get("name", "")),
        organisation=str(table.get("organisation", "")),
        threads=_number("threads", start.get("threads", 0)),
        device=str(start.get("device", "cpu")),
        port=_number("port", start.get("port", 0)),
    )
    try:
        check_site_name(home.name)
    except MalformedData as error:
        raise ConfigInvalid(f"site.toml: {error}") from None
    return home


def _number(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 65536:
        raise ConfigInvalid(f"site.toml: {key} must be a whole number from 0, not {value!r}")
    return value
