"""A PostgreSQL server of the tests' own, for those that must hold there too."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _binary(name: str) -> str | None:
    found = shutil.which(name)
    return found or next((str(p / name) for p in BINARIES if (p / name).exists()), None)


def _user() -> int | None:
    """PostgreSQL refuses to run as root; then an ordinary user of the system lends its id."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    return None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    """The socket folder of a fresh server; the test is skipped where there is no PostgreSQL."""
    initdb, pg_ctl = _binary("initdb"), _binary("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL is not installed (initdb and pg_ctl are needed)")
    folder = Path(tempfile.mkdtemp(prefix="wr-pg-", dir="/tmp"))  # short: a socket lies in it
    user = _user()
    if user is not None:
        os.chown(folder, user, -1)

    def run(*command: str) -> None:
        subprocess.run(
            command, check=True, user=user, cwd=folder, capture_output=True, timeout=60,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )  # fmt: skip

    data = str(folder / "data")
    run(initdb, "-D", data, "-U", "owner", "-A", "trust", "-E", "UTF8", "--no-sync")
    options = f"-k {folder} -c listen_addresses= -c fsync=off -c shared_buffers=16MB"
    try:
        run(pg_ctl, "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        yield folder
    finally:
        run(pg_ctl, "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def postgres(postgres_server: Path) -> Callable[..., URL]:
    """Makes a new database and returns its URL; `user` picks the role that connects."""
    name = f"t{secrets.token_hex(6)}"

    def url(user: str = "owner", database: str = name) -> URL:
        return URL.create(
            "postgresql+psycopg",
            user,
            database=database,
            query={"host": str(postgres_server)},
        )

    engine = create_engine(url("owner", "postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str | URL:
    """An empty database, once in SQLite and once in PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    made: URL = request.getfixturevalue("postgres")()
    return made
