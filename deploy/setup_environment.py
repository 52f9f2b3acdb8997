"""Make `.venv` with the locked dependencies where there is no uv. Standard library only; run by setup_environment.sh.

Distributions take Python apart (no `ensurepip`, no pip, a pip that refuses under PEP 668), so the two halves are
found separately: an environment (`venv`), then a pip that can fill it, the nearest one first. Every package is
installed by hash from the lock; a pip that has to be fetched is pinned by hash as well.
"""

import base64
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"
LOCKS = {"run": "requirements.txt", "documents": "requirements-image.txt", "dev": "requirements-dev.txt"}
"""The sets of packages, each within the next."""

PIP_WHEEL = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
PIP_SIZE_LIMIT = 16 << 20
FETCH_TIMEOUT_S = 60.0


class CannotSetUp(Exception):
    """The message is the one thing to do."""


def main() -> int:
    what = sys.argv[1] if len(sys.argv) > 1 else "run"
    if what not in LOCKS:
        print(f"environment: expected one of {', '.join(LOCKS)}, found {what}", file=sys.stderr)
        return 2
    requirements = lock_of(what)
    wanted = fingerprint(requirements)
    if environment_works() and STAMP.exists() and wanted in STAMP.read_text().split():
        return 0
    try:
        if not environment_works():
            make_environment()
        pip = find_pip()
        install(pip, requirements)
    except CannotSetUp as reason:
        print(f"environment: cannot be set up. {reason}", file=sys.stderr)
        return 1
    # Each set holds what the ones before it need, so one stamp may say several.
    satisfied = {fingerprint(lock_of(name)) for name in list(LOCKS)[: list(LOCKS).index(what) + 1]}
    STAMP.write_text("\n".join(sorted(satisfied)) + "\n")
    return 0


def lock_of(what: str) -> Path:
    return ROOT / "deploy" / LOCKS[what]


def fingerprint(requirements: Path) -> str:
    """What an installation depends on: the lock, the project's own metadata, and where the checkout stands."""
    parts = (requirements.read_bytes(), (ROOT / "pyproject.toml").read_bytes(), os.fsencode(ROOT))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def environment_works() -> bool:
    """Whether .venv is of this checkout and has a supported interpreter that still exists."""
    question = "import sys; print(sys.version_info[:2] >= (3, 11) and sys.version_info[:2] < (3, 14), sys.prefix)"
    try:
        answer = subprocess.run([PYTHON, "-c", question], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return answer.stdout.strip() == f"True {VENV}"


def make_environment() -> None:
    """`venv --without-pip` needs nothing that a distribution splits off; pip is a question of its own."""
    print(f"environment: {sys.executable} -m venv (Python {sys.version.split()[0]})")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", VENV], check=False)
    if made.returncode != 0:
        raise CannotSetUp(
            f"{sys.executable} could not make a virtual environment at {VENV}: "
            "check that the checkout is writable, and install the full Python (Debian: apt-get install python3-venv)."
        )


def find_pip() -> list[str]:
    """The beginning of a command line that runs a pip on .venv. The first of the candidates that answers is taken."""
    for name, command in pip_candidates():
        try:
            answer = subprocess.run([*command, "--version"], capture_output=True, timeout=120, check=False)
        except (OSError, subprocess.SubprocessError):
            continue
        if answer.returncode == 0:
            print(f"environment: using {name}")
            return command
    raise CannotSetUp(
        "This Python has no pip and none could be fetched from "
        f"{index_url()}: install one (Debian: apt-get install python3-venv), "
        "or name a reachable package index in PIP_INDEX_URL."
    )


def pip_candidates() -> Iterator[tuple[str, list[str]]]:
    """From the nearest to the farthest; a generator, so that nothing is fetched while something nearer works."""
    yield "the environment's pip", [str(PYTHON), "-m", "pip"]
    with tempfile.TemporaryDirectory() as nowhere:  # not the checkout: a file named pip.py there would be imported
        bundled = subprocess.run(
            [PYTHON, "-m", "ensurepip", "--default-pip"], capture_output=True, cwd=nowhere, timeout=120, check=False
        )
    if bundled.returncode == 0:
        yield "the pip that Python bundles", [str(PYTHON), "-m", "pip"]
    # --python installs into another environment (pip >= 22.3), which PEP 668 does not forbid.
    yield "the system's pip", [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    for wheel in sorted(Path("/usr/share/python-wheels").glob("pip-*.whl"), reverse=True):
        yield f"the distribution's {wheel.name}", [str(PYTHON), str(wheel / "pip")]
    try:
        fetched = fetch_pip()
    except (OSError, ValueError, urllib.error.URLError) as error:
        print(f"environment: no pip from {index_url()}: {error}", file=sys.stderr)
        return
    yield f"{fetched.name} from {index_url()}", [str(PYTHON), str(fetched / "pip")]


def index_url() -> str:
    """For people: without credentials, which the index's address may carry."""
    parts = urllib.parse.urlsplit(_index_url())
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _index_url() -> str:
    return (os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple").rstrip("/")


def fetch_pip() -> Path:
    """Download the pinned pip wheel through the index's simple page (PEP 503). A wheel runs unpacked or not."""
    page_url = f"{_index_url()}/pip/"
    page = read_url(page_url).decode()
    link = re.search(rf'href="([^"#]*{re.escape(PIP_WHEEL)})', page)
    if link is None:
        raise ValueError(f"the index does not offer {PIP_WHEEL}")
    wheel = read_url(urllib.parse.urljoin(page_url, link.group(1)))
    if hashlib.sha256(wheel).hexdigest() != PIP_SHA256:
        raise ValueError(f"{PIP_WHEEL} has another hash than the pinned one; it was not used")
    target = VENV / PIP_WHEEL
    target.write_bytes(wheel)
    return target


def read_url(url: str) -> bytes:
    """Credentials in the address go into a header, as urllib wants it, and to no host that it is redirected to."""
    parts = urllib.parse.urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))
    if credentials:
        encoded = base64.b64encode(urllib.parse.unquote_to_bytes(credentials)).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    with urllib.request.urlopen(request, timeout=FETCH_TIMEOUT_S) as response:
        body: bytes = response.read(PIP_SIZE_LIMIT + 1)
    if len(body) > PIP_SIZE_LIMIT:
        raise ValueError(f"the answer of {host} is larger than {PIP_SIZE_LIMIT} bytes")
    return body


def install(pip: list[str], requirements: Path) -> None:
    """Dependencies by hash first; then the project itself, editable, built by the locked backend."""
    print(f"environment: installing {requirements.name} (by hash)")
    locked = ["install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r", str(requirements)]
    itself = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    for arguments in (locked, itself):
        if subprocess.run([*pip, "--disable-pip-version-check", *arguments], check=False).returncode != 0:
            raise CannotSetUp(
                "pip could not install the locked packages (its reason stands above): "
                "check the network, or name a reachable package index in PIP_INDEX_URL."
            )


if __name__ == "__main__":
    sys.exit(main())
