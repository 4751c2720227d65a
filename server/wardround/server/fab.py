"""The Flower app bundle (FAB): one text file that names the two apps, and no code.

It is built the same, byte for byte, on every machine, so that a site can know its digest in
advance (`wardround.privacy.exchange.FAB_SHA256`) and refuse any other. The same text lies in
`deploy/flower_app/pyproject.toml` for people to read.
"""

import hashlib
import io
import zipfile
from typing import Final

PYPROJECT: Final = """\
# What Flower is told about Wardround. It holds no code: coordinator and sites run what they have
# installed themselves, and a site refuses a bundle whose digest is not the one it knows.
[project]
name = "wardround"
version = "1.0.0"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "wardround"

[tool.flwr.app.components]
serverapp = "wardround.server.app:app"
clientapp = "wardround.client.app:app"

[tool.flwr.app.config]
wardround-run = ""
"""

ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def build_fab() -> bytes:
    """The bundle: a zip without compression, times, owners or anything else that may vary."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        entry = zipfile.ZipInfo("pyproject.toml", ZIP_EPOCH)
        entry.create_system = 3
        entry.external_attr = 0o644 << 16
        bundle.writestr(entry, PYPROJECT)
    return buffer.getvalue()


def fab_digest() -> str:
    """SHA-256 of the bundle, hexadecimal, as Flower names it."""
    return hashlib.sha256(build_fab()).hexdigest()
