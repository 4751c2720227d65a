"""Loaded by every Python process of the test: writes down each connection that leaves loopback."""

import os
import sys

_WATCH = os.environ.get("CONNECTION_WATCH")


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if _WATCH and host not in {"127.0.0.1", "::1", "localhost", None}:
        with open(_WATCH, "a") as file:
            file.write(f"{os.getpid()} {event} {host}\n")


sys.addaudithook(_watch)
if _WATCH:
    with open(_WATCH + ".seen", "a") as seen:
        seen.write(f"{os.getpid()}\n")
