"""The coordinator's folder: config.toml with comments, keys, certificates, database."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from wardround.privacy.identity import FileSigner, write_private
from wardround.server import certificates
from wardround.server.errors import ConfigInvalid

CONFIG = """\
# Wardround coordinator. Every setting, with what it does; the file is read at `serve`.

# What the log calls itself. It is in every signed checkpoint and never changes.
origin = "{origin}"

# Where hospitals reach this coordinator: only Flower's Fleet API and enrolment, over TLS.
# `host` is the name in the certificate and in join tokens; `bind` the address to listen on.
[public]
host = "{host}"
bind = "{bind}"
port = {port}

# Flower's Control and Runtime APIs. Loopback only; both ask for a token all the same.
[internal]
port = {internal_port}

[database]
# Empty: SQLite beside this file. PostgreSQL: "postgresql+psycopg://app@host/wardround".
url = ""

[rounds]
# Seconds to wait for the sites in one exchange before the round goes on without the late ones.
exchange_deadline = 600
# Seconds to wait for enough sites to be online before a round is tried again.
patience = 600
# How often one round is tried before the run stops.
attempts = 5
# Masked uploads are kept for this many rounds, for an auditor's replay; then deleted.
keep_uploads = 1000
"""


@dataclass(frozen=True, slots=True)
class Rounds:
    """Deadlines (seconds) and counts of the rounds loop."""

    exchange_deadline: int = 600
    patience: int = 600
    attempts: int = 5
    keep_uploads: int = 1000


@dataclass(frozen=True, slots=True)
class Home:
    """The coordinator's folder and what config.toml says."""

    folder: Path
    origin: str
    host: str
    bind: str
    port: int
    internal_port: int
    database_url: str
    rounds: Rounds

    @property
    def log_key(self) -> Path:
        """Ed25519 key that signs checkpoints of the log."""
        return self.folder / "log.key"

    @property
    def coordinator_key(self) -> Path:
        """Ed25519 key that signs plans and run specifications."""
        return self.folder / "coordinator.key"

    @property
    def ca_certificate(self) -> Path:
        """Certificate of the coordinator's own authority; sites pin its fingerprint."""
        return self.folder / "ca.pem"

    @property
    def tls_certificate(self) -> Path:
        """Certificate chain of the public listener."""
        return self.folder / "tls.pem"

    @property
    def tls_key(self) -> Path:
        """Private key of the public listener."""
        return self.folder / "tls.key"

    @property
    def blobs(self) -> Path:
        """Content-addressed store of masked uploads."""
        return self.folder / "blobs"

    @property
    def models(self) -> Path:
        """Content-addressed store of global models and the optimiser's state."""
        return self.folder / "models"

    @property
    def openings(self) -> Path:
        """A folder for each run in group mode: opened sums that only its sites can read."""
        return self.folder / "openings"

    @property
    def flower(self) -> Path:
        """State of the embedded SuperLink."""
        return self.folder / "flower"

    @property
    def url(self) -> str:
        """Where sites reach the public listener."""
        return f"https://{self.host}:{self.port}"


def default_home() -> Path:
    """Return WARDROUND_COORDINATOR_HOME, else ./coordinator."""
    return Path(os.environ.get("WARDROUND_COORDINATOR_HOME", "coordinator"))


def create(
    folder: Path, *, origin: str, host: str, bind: str, port: int, internal_port: int
) -> Home:
    """Make the coordinator's folder: keys, authority, certificate, config.toml.

    Raises ConfigInvalid when the folder holds a coordinator already.
    """
    if (folder / "config.toml").exists():
        raise ConfigInvalid(f"{folder} is a coordinator's folder already; nothing was changed")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    FileSigner.create(folder / "log.key")
    FileSigner.create(folder / "coordinator.key")
    authority = certificates.make_authority(origin)
    server = certificates.make_server_certificate(authority, host)
    write_private(folder / "ca.key", authority.key_pem)
    (folder / "ca.pem").write_bytes(authority.certificate_pem)
    write_private(folder / "tls.key", server.key_pem)
    (folder / "tls.pem").write_bytes(server.certificate_pem + authority.certificate_pem)
    (folder / "config.toml").write_text(
        CONFIG.format(origin=origin, host=host, bind=bind, port=port, internal_port=internal_port)
    )
    return load(folder)


def load(folder: Path) -> Home:
    """Read the coordinator's folder; ConfigInvalid says which setting is missing or wrong."""
    path = folder / "config.toml"
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigInvalid(
            f"no coordinator in {folder}; make one with: wardround-coordinator init"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"config.toml is not valid TOML: {error}") from None
    known = {"origin", "public", "internal", "database", "rounds"}
    if unknown := sorted(set(table) - known):
        raise ConfigInvalid(f"config.toml has an unknown setting {unknown[0]!r}")
    for name in known - {"origin"}:
        if not isinstance(table.get(name, {}), dict):
            raise ConfigInvalid(f"config.toml: {name} must be a table: [{name}]")
    try:
        home = Home(
            folder=folder.resolve(),
            origin=str(table["origin"]),
            host=str(table["public"]["host"]),
            bind=str(table["public"]["bind"]),
            port=_port(table["public"]["port"]),
            internal_port=_port(table["internal"]["port"]),
            database_url=str(table["database"]["url"])
            or f"sqlite:///{folder.resolve() / 'coordinator.sqlite3'}",
            rounds=Rounds(**{key: _positive(key, v) for key, v in table["rounds"].items()}),
        )
    except KeyError as error:
        raise ConfigInvalid(f"config.toml lacks the setting {error}") from None
    except TypeError:
        raise ConfigInvalid("config.toml has an unknown setting in [rounds]") from None
    return home


def _port(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
        raise ConfigInvalid(f"config.toml: {value!r} is not a port")
    return value


def _positive(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigInvalid(f"config.toml: {key} must be a whole number above 0, not {value!r}")
    return value
