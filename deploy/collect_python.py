"""Pick what a sandbox's image consists of out of the machine (a build stage) that this runs in.

    python3 collect_python.py --image DIR [--packages DIR] --out DIR

The interpreter that runs this, its standard library without what no cell needs, the shared libraries that it, its
extension modules and the packages load, and the sandbox image itself: whole, compiled, owned by root, with no write
or suid bit for anybody. Where things end up:

    /rlm/python           a link to the interpreter, which keeps its place
    /rlm/image            the parent of `sandbox_image`
    /rlm/packages         what --packages held
    /rlm/session /tmp     mount points

Standard library only: it runs in a base image where nothing else is.
"""

import argparse
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

NOT_NEEDED = {
    "__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages",
    "sitecustomize.py", "test", "tests", "tkinter", "turtledemo", "usercustomize.py",
}  # fmt: skip
NOT_NEEDED_PREFIXES = ("_tkinter", "_test", "xxlimited", "_xx", "_ctypes_test", "config-")
OPTIONAL = ("/etc/ld.so.cache", "/usr/share/zoneinfo", "/etc/localtime", "/usr/lib/locale/C.utf8")
MOUNT_POINTS = ("rlm/session", "tmp", "proc", "sys", "dev", "etc")


def main() -> None:
    parser = argparse.ArgumentParser(description="Pick the files of a sandbox's image.")
    parser.add_argument("--image", type=Path, required=True, help="the sandbox_image package")
    parser.add_argument("--packages", type=Path, help="a directory of installed packages")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    out: Path = options.out
    executable = Path(os.path.realpath(sys.executable))
    library = Path(sysconfig.get_path("stdlib"))

    copy_tree(options.image, out / "rlm/image" / options.image.name)
    if options.packages is not None:
        copy_tree(options.packages, out / "rlm/packages", whole=True)
    copy_tree(library, out / library.relative_to("/"))
    dynload = Path(sysconfig.get_path("platstdlib")) / "lib-dynload"
    copy_tree(dynload, out / dynload.relative_to("/"))
    copy_file(executable, out)
    for path in map(Path, OPTIONAL):
        if path.is_dir():
            copy_tree(path, out / path.relative_to("/"), whole=True)
        elif path.exists():
            copy_file(path, out)
    # Libraries that a package brings along come first: they were copied with it, and their users find them beside.
    objects = [path for path in out.rglob("*.so*") if path.is_file()]
    for path in shared_libraries(executable, objects):
        copy_file(path, out)
    for name in MOUNT_POINTS:
        (out / name).mkdir(parents=True, exist_ok=True)
    (out / "rlm/python").symlink_to(executable)
    compile_all(out, [library, Path("/rlm/image"), Path("/rlm/packages")])
    close_tree(out)
    print(f"{sys.version.split()[0]}: {sum(path.lstat().st_size for path in out.rglob('*')) >> 20} MiB")


def copy_tree(source: Path, target: Path, *, whole: bool = False) -> None:
    """What no cell needs stays behind; of a `whole` tree only what was compiled elsewhere."""

    def ignore(_directory: str, names: "list[str]") -> "list[str]":
        if whole:
            return [name for name in names if name == "__pycache__"]
        return [name for name in names if name in NOT_NEEDED or name.startswith(NOT_NEEDED_PREFIXES)]

    shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True, ignore_dangling_symlinks=True)


def copy_file(path: Path, out: Path) -> None:
    """To the same place, as a file, whatever links lead there."""
    target = out / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copyfile(os.path.realpath(path), target)
        target.chmod(0o755)


def shared_libraries(executable: Path, objects: "list[Path]") -> "set[Path]":
    """What the dynamic loader would load for them: in tracing mode it lists that and starts nothing (ld.so(8)).

    One at a time, because the directories that an object names itself count for it alone.
    """
    found: set[Path] = set()
    for traced in [executable, *objects]:
        environment = {"LD_TRACE_LOADED_OBJECTS": "1"}
        if traced != executable:
            environment["LD_PRELOAD"] = str(traced)
        listing = subprocess.run([str(executable)], env=environment, capture_output=True, text=True, check=False)
        for line in listing.stdout.splitlines():
            words = line.strip().rpartition(" (")[0].split(" => ")
            path = Path(words[-1].strip())
            if path.is_absolute() and path.exists() and not path.is_relative_to(objects[0].parents[-2]):
                found.add(path)
    return {path for path in found if path not in objects}


def compile_all(out: Path, places: "list[Path]") -> None:
    """Here, because a sandbox cannot write what it compiles; `unchecked-hash`, because times do not survive a build."""
    for place in places:
        tree = out / place.relative_to("/")
        if tree.is_dir():
            words = [sys.executable, "-m", "compileall", "-q", "-q", "--invalidation-mode", "unchecked-hash"]
            # Some packages ship files for other Pythons, which do not compile here: no reason to stop.
            subprocess.run([*words, "-s", str(out), "-p", "/", str(tree)], check=False)


def close_tree(out: Path) -> None:
    moment = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    for path in [out, *out.rglob("*")]:
        if path.is_symlink():
            os.utime(path, (moment, moment), follow_symlinks=False)
            continue
        runs = path.is_dir() or bool(path.stat().st_mode & stat.S_IXUSR)
        path.chmod(0o555 if runs else 0o444)
        os.chown(path, 0, 0)
        os.utime(path, (moment, moment))
    (out / "tmp").chmod(0o1777)  # runc gives what it mounts there the mode of what it found


if __name__ == "__main__":
    main()
