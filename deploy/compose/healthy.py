"""Whether one of the Compose deployment's processes does its work, for its health check: exit status 0, or 1 and why.

    python3 -S healthy.py api | launcher | store

Standard library only and nothing of the service: it runs every few seconds.
"""

import json
import os
import socket
import sys
import urllib.error
import urllib.request

PATIENCE_S = 4.0
API = "http://127.0.0.1:8000/readyz"
LAUNCHER = "/run/launcher/launcher.sock"
STORE = "/run/store/store.sock"
LONGEST_ANSWER = 65_536
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Whatever proxy the engine gives its containers: the API is here."""


def main() -> int:
    check = {"api": api, "launcher": launcher, "store": store}[sys.argv[1]]
    try:
        trouble = check()
    except (OSError, ValueError) as error:
        trouble = f"no answer: {error}"
    if trouble is not None:
        print(trouble)
    return 0 if trouble is None else 1


def api() -> "str | None":
    """It takes requests, and its store answers."""
    try:
        with DIRECTLY.open(API, timeout=PATIENCE_S):
            return None
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.read(LONGEST_ANSWER).decode(errors="replace")


def launcher() -> "str | None":
    """It answers, and so does the engine behind it; each image that may be started is there."""
    os.setuid(os.stat(LAUNCHER).st_uid)  # it listens to its client's uid only
    answer = json.loads(ask(LAUNCHER, b'{"op":"capabilities"}\n'))
    if answer.get("kind") != "capabilities":
        return str(answer.get("message"))
    missing = [image["name"] for image in answer["images"] if not image["present"]]
    return f"the engine has no image {', '.join(missing)}" if missing else None


def store() -> "str | None":
    """It answers, and is done with reading its file."""
    answer = ask(STORE, b"PING\r\n").strip()
    return None if answer == b"+PONG" else answer.decode(errors="replace")


def ask(address: str, line: bytes) -> bytes:
    """The first line of the answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(address)
        connection.sendall(line)
        with connection.makefile("rb") as answer:
            return answer.readline(LONGEST_ANSWER)


if __name__ == "__main__":
    sys.exit(main())
