"""Puts contexts and tools into a namespace. Text is byte-exact: no newline is translated.

What came with an image is mapped where that is possible (`shared_text`); everything else is decoded, strictly.
"""

import errno
import json
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from .namespace import Namespace
from .protocol import (
    Binding,
    BindingKind,
    BindRequest,
    BoundFile,
    ErrorCode,
    ErrorReply,
    TextImage,
    TextListImage,
    Variable,
)
from .shared_text import WIDTHS, NotMapped, SharedTexts
from .tracebacks import TOOL_FILE_PREFIX, describe_exception

_decode_json = json.JSONDecoder().decode


class BindingRefused(Exception):
    """A binding that cannot be made; carries the reply."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.reply = ErrorReply(code=code, message=message)


@dataclass(frozen=True, slots=True)
class ContextFiles:
    """Where the files of contexts are, and what texts are mapped with; None where they cannot be."""

    directory: str
    shared: SharedTexts | None


def bind_all(namespace: Namespace, request: BindRequest, files: ContextFiles) -> list[Variable]:
    """Bind in order. What was bound before a refusal stays bound.

    Raises:
        BindingRefused: a file is missing or not what it should be, or a tool's code raised.
    """
    bound: list[str] = []
    for binding in request.bindings:
        if binding.kind is BindingKind.CODE:
            bound += _run_tool(namespace, binding)
            continue
        value = _load(binding, files)
        names = [binding.name, *binding.aliases]
        if request.as_variables:
            namespace.assign(dict.fromkeys(names, value))
        else:
            namespace.bind(dict.fromkeys(names, value))
        bound += names
    return namespace.describe(bound)


def _load(binding: Binding, files: ContextFiles) -> Any:
    if binding.kind is BindingKind.NAMED_TEXTS:
        return {file.part: _text(binding, file, files) for file in binding.files}
    if len(binding.files) != 1:
        raise BindingRefused(
            ErrorCode.BAD_REQUEST, f"{binding.name}: expected one file for {binding.kind}, found {len(binding.files)}"
        )
    (file,) = binding.files
    if file.list_image is not None and files.shared is not None and binding.kind is BindingKind.JSON:
        with suppress(NotMapped):  # parsing takes longer and more memory, and gives the same list
            return _map_list(binding.name, file.list_image, files.directory, files.shared)
    text = _text(binding, file, files)
    if binding.kind is BindingKind.TEXT:
        return text
    try:
        if binding.kind is BindingKind.JSON:
            return _decode_json(text)
        return [_decode_json(line) for line in text.split("\n") if line and not line.isspace()]
    except (ValueError, RecursionError) as error:
        raise BindingRefused(ErrorCode.BAD_REQUEST, f"{binding.name}: not JSON: {str(error)[:200]}") from None


def _text(binding: Binding, file: BoundFile, files: ContextFiles) -> str:
    where = f"{binding.name}, part {file.part!r}"
    if file.image is not None and files.shared is not None:
        with suppress(NotMapped):  # decoding takes longer and more memory, and gives the same text
            return _map_text(where, file.image, files.directory, files.shared)
    return _decode_text(where, file, files.directory)


def _map_text(where: str, image: TextImage, directory: str, shared: SharedTexts) -> str:
    with _opened(where, directory, image.file, image.length * WIDTHS[image.encoding]) as descriptor:
        return shared.text(descriptor, image)


def _map_list(where: str, image: TextListImage, directory: str, shared: SharedTexts) -> list[str]:
    with _opened(where, directory, image.file, image.size_bytes) as descriptor:
        return shared.texts(descriptor, image)


def _decode_text(where: str, file: BoundFile, directory: str) -> str:
    with _opened(where, directory, file.file, file.size_bytes) as descriptor:
        if file.size_bytes == 0:
            return ""
        try:
            # A mapping of a file does not count against the kernel's memory; only the string does.
            # Private, because the kernel may map nothing that is shared.
            with mmap.mmap(descriptor, file.size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped:
                return str(mapped, "utf-8", "strict")
        except UnicodeDecodeError as error:
            raise BindingRefused(ErrorCode.BAD_REQUEST, f"{where}: not UTF-8 at byte {error.start}") from None


@contextmanager
def _opened(where: str, directory: str, name: str, size_bytes: int) -> Iterator[int]:
    try:
        descriptor = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        code = ErrorCode.NOT_FOUND if error.errno == errno.ENOENT else ErrorCode.BAD_REQUEST
        raise BindingRefused(code, f"{where}: the file cannot be opened ({error.strerror})") from None
    try:
        found = os.fstat(descriptor).st_size
        if found != size_bytes:
            raise BindingRefused(ErrorCode.BAD_REQUEST, f"{where}: expected {size_bytes} bytes, found {found}")
        yield descriptor
    finally:
        os.close(descriptor)


def _run_tool(namespace: Namespace, binding: Binding) -> list[str]:
    before = dict(namespace.names)
    try:
        exec(compile(binding.code, f"{TOOL_FILE_PREFIX}{binding.name}>", "exec", dont_inherit=True), namespace.names)
    except Exception as error:
        raised = describe_exception(error)
        message = f"tool {binding.name}: {raised.type_name}: {raised.message}"
        raise BindingRefused(ErrorCode.BAD_REQUEST, message) from None
    absent = object()
    made = [
        name
        for name, value in namespace.names.items()
        if not name.startswith("__") and before.get(name, absent) is not value
    ]
    namespace.bind({name: namespace.names[name] for name in made})
    return made
