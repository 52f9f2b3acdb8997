"""From what a person names with `-c` to what the context store keeps: which files, of which kind, under which name.

`-c` takes a file, a directory, a glob, the id of a stored context or `-` for stdin, each optionally preceded by `NAME=`
to bind the context to a variable besides `context_N`. A directory or a glob with several matches becomes one context of
named texts; the suffix decides between text, JSON and documents (`service.contexts.detection`). Nothing is stored here:
`find_sources` only looks, so that a wrong path fails before anything is started.
"""

import errno
import glob
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from service.cli.counts import counted
from service.cli.hints import NAME_ENCODING
from service.cli.visible import visible_line
from service.contexts.detection import DocumentFile, TextFile, UnusableFile, kind_of, look_at
from service.contexts.encodings import Encoding
from service.contexts.values import ContextKind
from service.errors import BadRequest
from service.ids import ContextId, is_id

STDIN = "-"
MAX_FILES = 10_000
"""In one directory or glob, as many as a context may have parts: told while looking, not after reading a huge tree."""

_NAMED = re.compile(r"([^\W\d]\w{0,79})=(.+)", re.DOTALL)
_EXAMPLES = 3
_OF_ANYTHING = ("hidden", "a link")
"""Why something is left out that need not be a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One payload of a source, and what it is called within it."""

    name: str
    path: Path
    found: TextFile | DocumentFile | None
    """What it is; None for a pipe, which can be looked at only by reading it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a person wants files to be read."""

    encoding: Encoding | None = None
    """That of all text; None: it is found out for each file."""
    documents_as_they_are: bool = False
    """An HTML page as its markup, a notebook as its JSON."""


AS_FOUND = Reading()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What one `-c` named."""

    name: str
    kind: ContextKind
    files: tuple[SourceFile, ...]
    """Empty for stdin, which has no path."""
    variable: str | None = None
    left_out: tuple[str, ...] = ()
    """One line for people about what was found and not taken."""
    reading: Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredContext:
    """What one `-c ctx_…` named. Whether it exists, the store knows."""

    context_id: ContextId
    variable: str | None = None


Found = Source | StoredContext


def find_sources(arguments: Sequence[str], reading: Reading = AS_FOUND) -> tuple[Found, ...]:
    """Look at every `-c`.

    Raises:
        BadRequest: a path is missing, unreadable, empty or not text; the message says which and what to do.
    """
    sources = tuple(_find(argument, reading) for argument in arguments)
    if sum(isinstance(source, Source) and not source.files for source in sources) > 1:
        raise BadRequest("stdin can be one context only, and -c - was given more than once")
    return sources


def _find(argument: str, reading: Reading) -> Found:
    variable, target = None, argument
    named = _NAMED.fullmatch(argument)
    if named is not None and not os.path.lexists(argument):
        variable, target = named.groups()
    if target == STDIN:
        return Source(name="stdin", kind="text", files=(), variable=variable, reading=reading)
    if not target or "\0" in target:
        raise BadRequest(f"{visible_line(argument)!r} is no path: name a file, a directory, a glob or -")
    path = Path(target)
    if is_id(target, "ctx") and not os.path.lexists(path):
        return StoredContext(context_id=ContextId(target), variable=variable)
    if os.path.isdir(path):  # unlike Path.is_dir it is false, not an error, where nothing can be seen
        return _directory(path, variable, reading)
    if not os.path.lexists(path) and glob.has_magic(target):
        return _matches(target, variable, reading)
    return _file(path, variable, reading)


def _file(path: Path, variable: str | None, reading: Reading) -> Source:
    shown = visible_line(str(path))
    found: TextFile | DocumentFile | None = None
    try:
        mode = path.stat().st_mode
        # Only a regular file can be looked at twice; a pipe (process substitution) is read once, when it is stored.
        if stat.S_ISREG(mode):
            if path.stat().st_size == 0:
                raise BadRequest(f"{shown} is empty: a context needs at least one character")
            look = look_at(path, encoding=reading.encoding, as_it_is=reading.documents_as_they_are)
            if isinstance(look, UnusableFile):
                raise BadRequest(f"{shown} {look.detail}{_remedy(look)}")
            found = look
        elif not stat.S_ISFIFO(mode):
            raise BadRequest(f"{shown} is neither a file, a directory nor a pipe")
    except FileNotFoundError:
        raise BadRequest(f"no file, directory or glob match at {shown}: check the path") from None
    except OSError as error:
        raise BadRequest(f"{shown} cannot be read: {error.strerror}") from error
    kind = "text" if isinstance(found, DocumentFile) else kind_of(path)
    files = (SourceFile(name=path.name, path=path, found=found),)
    return Source(name=path.name, kind=kind, files=files, variable=variable, reading=reading)


def _directory(root: Path, variable: str | None, reading: Reading) -> Source:
    found: list[Path] = []
    hidden: list[str] = []
    # Links are not followed: they can lead out of the tree or round in circles.
    for directory, subdirectories, names in os.walk(root, onerror=_refuse_unreadable):
        hidden += [name for name in (*subdirectories, *names) if name.startswith(".")]
        subdirectories[:] = sorted(name for name in subdirectories if not name.startswith("."))
        found += [Path(directory, name) for name in sorted(names) if not name.startswith(".")]
        _refuse_too_many(found, str(root))
    return _named_texts(
        root.resolve().name or str(root), root, found, hidden=hidden, variable=variable, reading=reading
    )


def _matches(pattern: str, variable: str | None, reading: Reading) -> Source:
    files = (path for path in map(Path, glob.iglob(pattern, recursive=True)) if _may_be_a_file(path))
    found = sorted(islice(files, MAX_FILES + 1))
    if not found:
        raise BadRequest(f"no file, directory or glob match at {visible_line(pattern)}: check the path")
    if len(found) == 1:
        return _file(found[0], variable, reading)
    _refuse_too_many(found, pattern)
    shared = Path(os.path.commonpath([path.parent for path in found]))
    return _named_texts(pattern, shared, found, hidden=[], variable=variable, reading=reading)


def _may_be_a_file(path: Path) -> bool:
    """What cannot be looked at may be one: taking it tells why it is left out."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        return error.errno != errno.ELOOP


def _named_texts(
    name: str, root: Path, found: Iterable[Path], *, hidden: list[str], variable: str | None, reading: Reading
) -> Source:
    taken: list[SourceFile] = []
    reasons: dict[str, list[str]] = {"hidden": hidden} if hidden else {}
    for path in found:
        look = _look(path, reading)
        part = path.relative_to(root).as_posix()
        if isinstance(look, UnusableFile):
            reasons.setdefault(f"{look.reason}{_remedy(look)}", []).append(part)
        else:
            taken.append(SourceFile(name=part, path=path, found=look))
    left_out = tuple(f"{visible_line(name)}: left out {_examples(reason, names)}" for reason, names in reasons.items())
    if not taken:
        why = f" ({'; '.join(left_out)})" if left_out else ""
        raise BadRequest(f"{visible_line(name)} holds no text file{why}")
    files = tuple(taken)
    return Source(name=name, kind="named_texts", files=files, variable=variable, left_out=left_out, reading=reading)


def _look(path: Path, reading: Reading) -> TextFile | DocumentFile | UnusableFile:
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return _left_out("a link")
        if not stat.S_ISREG(status.st_mode):
            return _left_out("neither a file nor a directory")
        return look_at(path, encoding=reading.encoding, as_it_is=reading.documents_as_they_are)
    except PermissionError:
        return _left_out("unreadable")
    except FileNotFoundError:
        return _left_out("gone meanwhile")
    except OSError as error:
        return _left_out(f"unreadable ({error.strerror})")


def _left_out(reason: str) -> UnusableFile:
    return UnusableFile(reason=reason, detail=reason)


def _remedy(look: UnusableFile) -> str:
    return f" (say {NAME_ENCODING})" if look.lacks_encoding else ""


def _examples(reason: str, names: list[str]) -> str:
    shown = ", ".join(visible_line(name, 60) for name in names[:_EXAMPLES])
    what = counted(len(names), "entry", "entries") if reason in _OF_ANYTHING else counted(len(names), "file")
    return f"{what}: {reason} ({shown}{', …' if len(names) > _EXAMPLES else ''})"


def _refuse_too_many(found: Sequence[Path], what: str) -> None:
    if len(found) > MAX_FILES:
        raise BadRequest(f"{visible_line(what)} holds more than {MAX_FILES:,} files: name a smaller part of it")


def _refuse_unreadable(error: OSError) -> None:
    raise BadRequest(f"{visible_line(str(error.filename))} cannot be read: {error.strerror}") from error
