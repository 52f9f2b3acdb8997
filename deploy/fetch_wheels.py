"""Fetch wheels for an image whose build reaches no package index: for the Python of its base, not for this one.

    python deploy/fetch_wheels.py --base IMAGE --list FILE --out DIR [PACKAGE...]

FILE is pinned with hashes. Its conditions (`; python_full_version < '3.12'`) are those of the base's Python, which is
asked; so is which C library the wheels may link to. PACKAGEs are fetched beside it with what they need, where the
conditions of *their* requirements are taken as this Python sees them: run it with the base's minor version for those.
Needs Docker (DOCKER_HOST) and a pip; with the wheels in DIR, WHEELS=DIR builds without a network.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pip._vendor.packaging.requirements import Requirement

OLDEST_GLIBC_MINOR = 17
"""Of manylinux2014; wheels for still older ones are no longer made."""
QUESTION = """
import json, os, platform, sys
major, minor = os.confstr("CS_GNU_LIBC_VERSION").split()[1].split(".")[:2]
print(json.dumps({"glibc": [int(major), int(minor)], "markers": {
    "implementation_name": sys.implementation.name, "implementation_version": platform.python_version(),
    "os_name": os.name, "platform_machine": platform.machine(), "platform_release": platform.release(),
    "platform_system": platform.system(), "platform_version": platform.version(),
    "python_full_version": platform.python_version(), "platform_python_implementation": "CPython",
    "python_version": ".".join(platform.python_version_tuple()[:2]), "sys_platform": sys.platform}}))
"""
"""What the base is asked; the standard library's names for what PEP 508 calls markers."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch wheels for an image whose build reaches no package index.")
    parser.add_argument("--base", required=True)
    parser.add_argument("--list", type=Path, required=True, dest="pinned")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("packages", nargs="*")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    base = ask(options.base)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pip += ["--only-binary", ":all:", "--dest", str(options.out), "--implementation", "cp"]
    pip += ["--python-version", base["markers"]["python_full_version"]]
    for tag in platforms(base["markers"]["platform_machine"], *base["glibc"]):
        pip += ["--platform", tag]
    listed = entries(options.pinned.read_text())
    chosen = [without_condition(entry) for entry in listed if applies(entry, base["markers"])]
    with tempfile.TemporaryDirectory() as directory:
        pinned = Path(directory) / "pinned.txt"
        pinned.write_text("\n".join(chosen) + "\n")
        subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", str(pinned)], check=True)
        if options.packages:
            constraints = Path(directory) / "constraints.txt"
            constraints.write_text("\n".join(requirement_of(entry) for entry in chosen) + "\n")
            subprocess.run(
                [*pip, "--find-links", str(options.out), "--constraint", str(constraints), *options.packages],
                check=True,
            )


def ask(base: str) -> dict[str, Any]:
    """The markers and the C library of the image's Python."""
    words = ["docker", "run", "--rm", "--network", "none", base, "python3", "-c", QUESTION]
    asked = subprocess.run(words, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        sys.exit(f"fetch_wheels: the base {base} does not run Python: {asked.stderr.strip()[:500]}")
    answer: dict[str, Any] = json.loads(asked.stdout)
    return answer


def entries(text: str) -> Iterator[str]:
    """Each requirement with the lines of its hashes; comments are left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    entry: list[str] = []
    for line in lines:
        entry.append(line)
        if not line.endswith("\\"):
            yield "\n".join(entry)
            entry = []


def requirement_of(entry: str) -> str:
    """The entry's first line without what pip adds to the standard form."""
    return entry.splitlines()[0].rstrip(" \\")


def applies(entry: str, markers: dict[str, str]) -> bool:
    marker = Requirement(requirement_of(entry)).marker
    return marker is None or marker.evaluate({**markers, "extra": ""})


def without_condition(entry: str) -> str:
    """It was looked at already; pip would look again, at the Python that runs pip."""
    first, *hashes = entry.splitlines()
    requirement = first.rstrip(" \\").partition(";")[0].rstrip()
    return " \\\n".join([requirement, *(line.rstrip(" \\") for line in hashes)])


def platforms(machine: str, glibc_major: int, glibc_minor: int) -> Iterator[str]:
    """The newest first, as pip prefers them."""
    for minor in range(glibc_minor, OLDEST_GLIBC_MINOR - 1, -1):
        yield f"manylinux_{glibc_major}_{minor}_{machine}"
    yield f"manylinux2014_{machine}"
    yield f"linux_{machine}"


if __name__ == "__main__":
    main()
