"""What `rlm-service --help` costs."""

import json
import subprocess
import sys

HEAVY = {
    "aiohttp",
    "anyio",
    "asyncio",
    "fastapi",
    "httpx",
    "jsonschema",
    "litellm",
    "pydantic",
    "redis",
    "rich",
    "service.runs",
    "service.wiring",
    "structlog",
}
"""Each takes tens of milliseconds or more; together they take a second."""

PROGRAM = """
import contextlib, io, json, sys
sys.argv = ["rlm-service", *sys.argv[1:]]
from service.cli.entry import main
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    main()
print(json.dumps({"shown": shown.getvalue(), "modules": sorted(sys.modules)}))
"""


def ask_for_help(*arguments: str) -> tuple[str, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    answer = json.loads(done.stdout)
    return answer["shown"], set(answer["modules"])


def test_help_imports_nothing_heavy() -> None:
    """Help answers within a blink because it imports the command line's grammar and nothing behind it."""
    for arguments in (["--help"], ["ask", "--help"], ["runs", "tail", "-h"]):
        shown, modules = ask_for_help(*arguments)
        assert "Usage: rlm-service" in shown
        assert not HEAVY & modules
