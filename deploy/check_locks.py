"""Fail when uv.lock is behind pyproject.toml, or the exported requirements files behind uv.lock.

The requirements files are what pip installs where there is no uv. `--write` brings them up to date.
"""

import shutil
import subprocess
import sys
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent
EXPORT = ["uv", "export", "--frozen", "--no-header", "--no-emit-project", "--quiet", "--group", "build"]
EXPORTS = {
    "requirements.txt": [*EXPORT, "--no-dev"],
    "requirements-dev.txt": EXPORT,
    "requirements-image.txt": [*EXPORT, "--no-dev", "--extra", "documents"],  # of Dockerfile.api
}


def main() -> int:
    # Run it: a version switcher's shim may exist without a uv behind it.
    if shutil.which("uv") is None or subprocess.run(["uv", "--version"], capture_output=True, check=False).returncode:
        print("NOT CHECKED: whether uv.lock and deploy/requirements*.txt are current, because uv is not installed")
        return 0
    locked = subprocess.run(["uv", "lock", "--check", "--quiet"], cwd=DEPLOY.parent, check=False)
    if locked.returncode != 0:
        print("uv.lock is behind pyproject.toml: run `uv lock`", file=sys.stderr)
        return 1
    stale = []
    for name, command in EXPORTS.items():
        current = subprocess.run(command, cwd=DEPLOY.parent, capture_output=True, text=True, check=True).stdout
        file = DEPLOY / name
        if file.exists() and file.read_text() == current:
            continue
        if "--write" in sys.argv:
            file.write_text(current)
        else:
            stale.append(f"deploy/{name}")
    if stale:
        print(f"behind uv.lock: {', '.join(stale)}: run `python deploy/check_locks.py --write`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
