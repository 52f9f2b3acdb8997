"""The Seatbelt level, as far as Linux allows: its profile, its command line, and that it is refused where it is not."""

import json
import os
import re
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli.run_ends import warn_of_weak_isolation
from service.ids import CellId
from service.loop.values import CapturedText, CellResult, CellStatus
from service.sandboxes.levels import Launch, Level, LevelName, command, fix_on, levels_of
from service.sandboxes.port import SandboxRefused, Template
from service.sandboxes.probe import _LOOK_AROUND, _judge, _missing
from service.sandboxes.process_provider import ProcessProvider, _LevelProvider
from service.sandboxes.python_files import PythonFiles, base_executable, find_python_files
from service.sandboxes.seatbelt import LACKS, SeatbeltProfile, quoted, render

PROFILE = SeatbeltProfile(
    executables=[Path("/opt/python/bin/python3.12"), Path("/opt/python/App/Python")],
    python_files=[Path("/opt/python/lib")],
    hidden=[Path("/opt/python/lib/site-packages")],
    image=Path("/data/runtime/image/sandbox_image"),
    session=Path("/data/sessions/sbx_1"),
    tmp=Path("/data/sessions/sbx_1.tmp"),
)
PINNED = r"""(version 1)
(deny default)
(deny process-info*)
(allow process-info-pidinfo (target self))
(allow process-info-rusage (target same-sandbox))
(allow process-fork)
(allow process-exec (literal "/opt/python/bin/python3.12") (literal "/opt/python/App/Python"))
(allow signal (target self))
(allow signal (target children))
(allow sysctl-read (sysctl-name …))
(allow file-read* (literal "/") (literal "/dev/null") (literal "/dev/zero") (literal "/dev/random") \
(literal "/dev/urandom") (literal "/private/etc/localtime"))
(allow file-write-data (literal "/dev/null"))
(allow file-read* file-map-executable (subpath "/System/Library") (subpath "/System/Cryptexes/OS") \
(subpath "/System/Volumes/Preboot/Cryptexes/OS") (subpath "/usr/lib") (subpath "/private/var/db/dyld") \
(subpath "/private/var/db/timezone") (subpath "/usr/share/zoneinfo") (subpath "/opt/python/bin/python3.12") \
(subpath "/opt/python/App/Python"))
(allow file-read-metadata …)
(allow file-read* file-map-executable (subpath "/opt/python/lib"))
(allow file-read* (subpath "/data/runtime/image/sandbox_image") (subpath "/data/sessions/sbx_1"))
(allow file-read* file-write* (subpath "/data/sessions/sbx_1.tmp"))
(allow system-socket (socket-domain AF_UNIX))
(allow network-outbound (remote unix-socket (path-literal "/data/sessions/sbx_1/sandbox.sock")))
(allow network-outbound (remote unix-socket (path-literal "/data/sessions/sbx_1/gateway.sock")))
(deny file-read* file-map-executable (subpath "/opt/python/lib/site-packages"))
"""


def test_the_profile_is_pinned() -> None:
    """Every rule of it; a change here is a change of the security profile."""
    shown = re.sub(r"\(sysctl-name [^)]*\)", "(sysctl-name …)", render(PROFILE))
    shown = re.sub(r"(?m)^\(allow file-read-metadata .*\)$", "(allow file-read-metadata …)", shown)
    assert shown == PINNED.replace("\\\n", "")


def test_only_values_of_the_machine_and_the_way_to_files_are_told_beside() -> None:
    """Of sysctl no process list and no argument vector; of directories on the way their being there, not their
    content."""
    rules = {rule[1]: rule[2:] for rule in parsed(render(PROFILE)) if rule[1] in {"sysctl-read", "file-read-metadata"}}
    (values,) = rules["sysctl-read"]
    assert not [name for name in values[1:] if str(name).startswith(("'kern.proc", "'kern.boot", "'net."))]
    passed = {literal[1] for literal in rules["file-read-metadata"]}
    assert {literal[0] for literal in rules["file-read-metadata"]} == {"literal"}
    assert {"'/", "'/data", "'/data/sessions", "'/data/runtime/image", "'/opt/python"} <= passed
    assert "'/data/sessions/sbx_1" not in passed


def test_nothing_is_written_but_the_private_directory() -> None:
    """No rule lets write, link or change modes anywhere else, no rule names a mach service, no network address, and
    what may be executed is Python."""
    for verdict, *rest in parsed(render(PROFILE))[1:]:
        operations = [word for word in rest if isinstance(word, str)]
        filters = [part for part in rest if isinstance(part, list)]
        if verdict == "allow" and any(word.startswith("file-write") for word in operations):
            assert filters in ([["subpath", "'/data/sessions/sbx_1.tmp"]], [["literal", "'/dev/null"]])
        if verdict == "allow" and "process-exec" in operations:
            assert filters == [["literal", f"'{path}"] for path in PROFILE.executables]
        assert not any(word.startswith(("mach", "iokit", "network-inbound", "network-bind")) for word in operations)
        assert verdict == "deny" or not {"network*", "file-link", "default", "process*"} & set(operations)


names = st.text(
    st.one_of(st.sampled_from("\"\\()';#| \t\n\r\0"), st.characters(), st.sampled_from(string.ascii_letters)),
    min_size=1,
    max_size=30,
).filter(lambda name: "/" not in name and name != ".")


@given(names)
def test_a_path_is_one_string_whatever_it_holds(name: str) -> None:
    """With a path of any characters the profile has the very rules that it has with a harmless one, and the path in
    their places; or the path is refused, with what to do."""
    place = Path("/data") / name
    profile = replace(PROFILE, tmp=place / "t", session=place / "s", python_files=[place])
    harmless = replace(PROFILE, tmp=Path("/data/@/t"), session=Path("/data/@/s"), python_files=[Path("/data/@")])
    if name == ".." or not name.isprintable():
        with pytest.raises(SandboxRefused, match="use an"):
            render(profile)
        return
    text = render(profile)
    expected = [[_put(part, name) for part in rule] for rule in parsed(render(harmless))]
    assert _sorted(parsed(text)) == _sorted(expected)


@pytest.mark.parametrize("path", ["relative/path", "/a/../b", "/a\nb", "/a\0b", "/a\x1bb", "/a\ud800b", "/a\u2028b"])
def test_paths_that_cannot_be_named_are_refused(path: str) -> None:
    """Relative ones, those that lead upwards, and control characters, whatever they would mean to Seatbelt."""
    with pytest.raises(SandboxRefused, match="cannot name the path"):
        quoted(Path(path))


@pytest.mark.parametrize(
    "change",
    [{"session": Path("/t/s")}, {"image": Path("/t")}, {"python_files": [Path("/t/lib")]}, {"session": Path("/")}],
)
def test_what_is_read_cannot_be_what_is_written(change: dict[str, object]) -> None:
    """A data directory in which a sandbox could change its own program or contexts is refused."""
    with pytest.raises(SandboxRefused, match="another data directory"):
        render(replace(PROFILE, tmp=Path("/t"), **change))  # type: ignore[arg-type]


def test_the_command_line_is_pinned() -> None:
    """A shell sets the limits that macOS keeps, sandbox-exec puts the profile in force, Python is told to be within."""
    python = PythonFiles(
        executable=PROFILE.executables[0],
        executables=tuple(PROFILE.executables),
        version="3.12.1",
        paths=tuple(PROFILE.python_files),
        packages=tuple(PROFILE.hidden),
    )
    level = Level(name=LevelName.SEATBELT, python=python, image=PROFILE.image)
    launch = Launch(
        template=Template(open_files=99),
        session=PROFILE.session,
        tmp=PROFILE.tmp,
        uid=None,
        hash_seed=7,
        status_descriptor=9,
    )
    shell, flag, script, name, *rest = command(level, launch)
    assert (shell, flag, name) == ("/bin/sh", "-c", "sh")
    assert script == 'ulimit -c 0 && ulimit -n 99 && exec "$@"'
    assert rest[:3] == ["/usr/bin/sandbox-exec", "-p", render(PROFILE)]
    assert " ".join(rest[3:]) == (
        "/opt/python/bin/python3.12 -P -s -S -B -m sandbox_image --session-directory /data/sessions/sbx_1"
        " --open-files 99 --host-patience-s 5 --confine seatbelt --tmp /data/sessions/sbx_1.tmp"
    )
    assert not level.has_own_pids


def test_each_system_has_its_levels() -> None:
    """None of macOS is tried on Linux or the other way round, and where none is left the sentence says what to do."""
    assert levels_of("linux") == (LevelName.NAMESPACES, LevelName.LANDLOCK)
    assert levels_of("darwin") == (LevelName.SEATBELT,)
    with pytest.raises(SandboxRefused, match="WSL2"):
        levels_of("win32")
    assert "Linux virtual machine" in fix_on("darwin")
    assert "user namespaces" in fix_on("linux")


@pytest.mark.skipif(os.path.exists("/usr/bin/sandbox-exec"), reason="this machine has Seatbelt")
def test_without_seatbelt_macos_is_refused_with_the_reason(runtime: Path) -> None:
    """The level is really tried: where sandbox-exec does not run, that stands in the data, and the message says what to
    do instead. Nothing weaker is taken, and with the override the level is `none`."""
    with pytest.raises(SandboxRefused, match="run the service in a Linux virtual machine") as caught:
        anyio.run(ProcessProvider(runtime, platform="darwin").isolation)
    assert list(caught.value.data) == ["seatbelt"]
    assert "sandbox-exec" in str(caught.value.data["seatbelt"])
    isolation = anyio.run(ProcessProvider(runtime, platform="darwin", allow_unsafe=True).isolation)
    assert (isolation.level, isolation.multi_tenant) == ("none", False)
    assert any("UNSAFE" in line for line in isolation.details)


def test_what_the_level_does_not_hold_is_said(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """doctor and the API show the isolation's details, and a command says it before it runs anything: for whom the
    level is, and what it lacks."""
    level = Level(name=LevelName.SEATBELT, python=find_python_files(base_executable()), image=runtime)
    provider = _LevelProvider(level, runtime)
    described = provider.described(())
    assert (described.level, described.multi_tenant) == ("seatbelt", False)
    assert described.warning in described.details
    assert described.warning == f"single user and loopback only: {LACKS}"
    for lack in ("memory", "system call", "processes of this machine", "never tried on a Mac"):
        assert lack in LACKS
    anyio.run(warn_of_weak_isolation, provider)
    assert capsys.readouterr().err == f"rlm-service: {described.warning}\n"
    anyio.run(warn_of_weak_isolation, _LevelProvider(replace(level, name=LevelName.LANDLOCK), runtime))
    assert capsys.readouterr().err == ""


HARMLESS = dict.fromkeys(
    [
        "reads a file of the host",
        "lists a directory of the host",
        "writes beside a file of the host",
        "links a file of its session directory",
        "writes to its session directory",
        "starts a process",
        "starts a program",
        "connects to a port of the host",
        "connects to a socket of the host",
        "signals another process",
        "runs as root",
    ],
    False,
)
"""What no cell may do at any level, and did not."""
UNPROMISED = dict.fromkeys(
    [
        "sees processes of the host",
        "has a network device",
        "opens a network socket",
        "opens a unix socket",
        "runs without a seccomp filter",
        "shares memory, which no limit counts",
    ],
    True,
)
"""What Seatbelt cannot keep a cell from."""


def judged(level: LevelName, **deeds: bool) -> list[str]:
    head = json.dumps({"kernel build": "Darwin", "deeds": HARMLESS | UNPROMISED | deeds})
    stdout = CapturedText(head=head, size_bytes=len(head))
    return _judge(CellResult(cell_id=CellId("probe"), status=CellStatus.OK, stdout=stdout), level)


def test_the_probe_lets_pass_what_the_level_does_not_promise_and_nothing_else() -> None:
    """Each other deed that worked in a cell keeps the level from being used, as all of them do where more is
    promised."""
    assert judged(LevelName.SEATBELT) == []
    assert judged(LevelName.NAMESPACES) == [f"a cell there {deed}" for deed in UNPROMISED]
    for deed in (*HARMLESS, "does something that nobody thought of"):
        assert judged(LevelName.SEATBELT, **{deed: True}) == [f"a cell there {deed}"]
        asked = f'"{deed}": ' in _LOOK_AROUND
        assert asked is (deed in HARMLESS)


def test_a_level_without_its_watch_does_not_count() -> None:
    """Where nobody may look at the kernel's memory, nothing at all bounds it: the level is refused."""
    assert _missing(("seatbelt", "no-fork", "memory-watch", "texts:mapped"), LevelName.SEATBELT) == []
    assert _missing(("seatbelt", "no-fork"), LevelName.SEATBELT) == ["memory-watch is not in force there"]
    assert _missing(("seccomp",), LevelName.NAMESPACES) == []


Expression = str | list["Expression"]


def parsed(text: str) -> list[list[Expression]]:
    """Seatbelt's language, read by somebody else than who wrote it: lists, words, and strings marked by a quote."""
    tokens = _tokens(text)
    found = []
    for token in tokens:
        assert token == "("
        found.append(_list(tokens))
    return found


def _list(tokens: Iterator[str]) -> list[Expression]:
    found: list[Expression] = []
    for token in tokens:
        if token == ")":
            return found
        found.append(_list(tokens) if token == "(" else token)
    raise AssertionError("a list without an end")


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
        elif text[at] in "()":
            yield text[at]
            at += 1
        elif text[at] == '"':
            content = ""
            at += 1
            while text[at] != '"':
                at += text[at] == "\\"
                content += text[at]
                at += 1
            at += 1
            yield "'" + content
        else:
            word = re.match(r"[A-Za-z0-9_*.-]+", text[at:])
            assert word, text[at:]
            yield word[0]
            at += len(word[0])


def _put(expression: Expression, name: str) -> Expression:
    """In the places of the harmless name."""
    if isinstance(expression, str):
        return expression.replace("@", name)
    return [_put(part, name) for part in expression]


def _sorted(rules: list[list[Expression]]) -> list[list[Expression]]:
    """Directories on the way are sorted by their names."""
    return [sorted(rule, key=repr) if "file-read-metadata" in rule else rule for rule in rules]
