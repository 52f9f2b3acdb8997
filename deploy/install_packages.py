"""Install the packages of the `full` sandbox image, in its build stage.

    python3 install_packages.py --list FILE --target DIR [--wheels DIR] [PACKAGE...]

The list is pinned with hashes; the operator's own PACKAGEs (with or without a version) come after it and may not
change what it installed. Wheels only: the image has no compiler, and a build script is code that nobody has read.
pip is the interpreter's own, or the one that Debian keeps as a wheel. Where the directory of --wheels holds any
(deploy/fetch_wheels.py fetches them), everything comes out of it and nothing over the network.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

IMPORTED = "bs4 dateutil lxml.etree networkx numpy orjson pandas rapidfuzz regex tabulate yaml"
"""What the list is for: imported once here, so that a base without a library they need is found at build time."""
DEBIAN_WHEELS = Path("/usr/share/python-wheels")


def main() -> None:
    parser = argparse.ArgumentParser(description="Install the packages of the full sandbox image.")
    parser.add_argument("--list", type=Path, required=True, dest="pinned")
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("packages", nargs="*")
    options = parser.parse_args()
    pip = [*find_pip(), "install", "--quiet", "--only-binary", ":all:", "--target", str(options.target)]
    if options.wheels is not None and any(options.wheels.glob("*.whl")):
        pip += ["--no-index", "--find-links", str(options.wheels)]
    subprocess.run([*pip, "--require-hashes", "-r", str(options.pinned)], check=True)
    trial = [sys.executable, "-c", f"import {IMPORTED.replace(' ', ', ')}"]
    if subprocess.run(trial, env={"PYTHONPATH": str(options.target)}, check=False).returncode != 0:
        sys.exit("the base image lacks what its packages need (see above); use one that has, such as libstdc++6")
    if options.packages:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
            constraints.write("\n".join(pins(options.pinned)) + "\n")
            constraints.flush()
            subprocess.run([*pip, "--constraint", constraints.name, *options.packages], check=True)


def find_pip() -> "list[str]":
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
        return [sys.executable, "-m", "pip"]
    wheels = sorted(DEBIAN_WHEELS.glob("pip-*.whl"))
    if wheels:
        return [sys.executable, str(wheels[-1] / "pip")]
    sys.exit(
        f"the base image's Python ({sys.executable}) has no pip; use one that has, such as python:3.12-slim-bookworm"
    )


def pins(pinned: Path) -> "list[str]":
    """The list's `name==version; condition` lines, without the hashes."""
    lines = pinned.read_text().splitlines()
    return [line.rstrip(" \\") for line in lines if "==" in line.partition(" ")[0]]


if __name__ == "__main__":
    main()
