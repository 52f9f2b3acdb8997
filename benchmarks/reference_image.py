"""The container image that the reference library's Docker mode runs in.

It wants `python:3.11-slim` and installs dill and requests with pip into every container it starts. Here both are in the
image already, so that pip only finds that there is nothing to do: that is the fast case for the reference library,
and the only one without a network. The image comes from Debian's own packages where `mmdebstrap` is installed (no
registry is asked), else from `python:3.11-slim` and the package index.

    python -m benchmarks.reference_image        # makes it and prints its name
"""

import os
import shutil
import subprocess
import sys

IMAGE = "rlm-benchmarks/reference:1"
PACKAGES = "python3,python-is-python3,python3-pip,python3-dill,python3-requests"
DOCKERFILE = b"FROM python:3.11-slim\nRUN pip install --no-cache-dir dill requests\n"
TIMEOUT_S = 900


class ImageAbsent(Exception):
    """There is no engine, or the image cannot be made; the text says why."""


def provide_image() -> str:
    """The image's name; it is made where it is missing.

    Raises:
        ImageAbsent
    """
    if shutil.which("docker") is None:
        raise ImageAbsent("no docker command on PATH, which the reference library's Docker mode calls")
    engine = _run(["docker", "version", "--format", "{{.Server.Version}}"])
    if engine.returncode != 0:
        raise ImageAbsent(f"no Docker engine answers: {_last_line(engine.stderr)}")
    if _run(["docker", "image", "inspect", IMAGE]).returncode != 0:
        made = _from_packages() if shutil.which("mmdebstrap") and os.geteuid() == 0 else _from_registry()
        if made.returncode != 0:
            raise ImageAbsent(f"the image {IMAGE} cannot be made: {_last_line(made.stderr)}")
    tried = _run(["docker", "run", "--rm", "--add-host", "host.docker.internal:host-gateway", IMAGE, "true"])
    if tried.returncode != 0:
        raise ImageAbsent(
            "the reference library's containers need the engine's bridge network, and one with it does not start: "
            f"{_last_line(tried.stderr)}"
        )
    return IMAGE


def _from_packages() -> "subprocess.CompletedProcess[bytes]":
    """Python 3.11 is Debian bookworm's own. Its mark that forbids pip is taken away, as the official image has none."""
    bootstrap = [
        *("mmdebstrap", "--quiet", "--variant=minbase"),
        f"--include={PACKAGES}",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        '--customize-hook=rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
        *("bookworm", "-"),
    ]
    tree = _run(bootstrap)
    if tree.returncode != 0:
        return tree
    return _run(["docker", "import", "--change", 'CMD ["python3"]', "-", IMAGE], tree.stdout)


def _from_registry() -> "subprocess.CompletedProcess[bytes]":
    return _run(["docker", "build", "--quiet", "--tag", IMAGE, "-"], DOCKERFILE)


def _run(command: list[str], given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(command, input=given, capture_output=True, timeout=TIMEOUT_S, check=False)


def _last_line(text: bytes) -> str:
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip() and "--help" not in line]
    return lines[-1][:300] if lines else "it said nothing"


if __name__ == "__main__":
    try:
        print(provide_image())
    except ImageAbsent as reason:
        sys.exit(str(reason))
