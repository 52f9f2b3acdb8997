"""Puts contexts and tools into a namespace. Text is byte-exact: decoded strictly, no newline is translated."""

import errno
import json
import mmap
import os
from typing import Any

from .namespace import Namespace
from .protocol import Binding, BindingKind, BoundFile, ErrorCode, ErrorReply, Variable
from .tracebacks import TOOL_FILE_PREFIX, describe_exception

_decode_json = json.JSONDecoder().decode


class BindingRefused(Exception):
    """A binding that cannot be made; carries the reply."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.reply = ErrorReply(code=code, message=message)


def bind_all(namespace: Namespace, bindings: list[Binding], directory: str) -> list[Variable]:
    """Bind in order. What was bound before a refusal stays bound.

    Raises:
        BindingRefused: a file is missing or not what it should be, or a tool's code raised.
    """
    bound: list[str] = []
    for binding in bindings:
        if binding.kind is BindingKind.CODE:
            bound += _run_tool(namespace, binding)
            continue
        value = _load(binding, directory)
        names = [binding.name, *binding.aliases]
        namespace.bind(dict.fromkeys(names, value))
        bound += names
    return namespace.describe(bound)


def _load(binding: Binding, directory: str) -> Any:
    if binding.kind is BindingKind.NAMED_TEXTS:
        return {file.part: _read_text(binding, file, directory) for file in binding.files}
    if len(binding.files) != 1:
        raise BindingRefused(
            ErrorCode.BAD_REQUEST, f"{binding.name}: expected one file for {binding.kind}, found {len(binding.files)}"
        )
    text = _read_text(binding, binding.files[0], directory)
    if binding.kind is BindingKind.TEXT:
        return text
    try:
        if binding.kind is BindingKind.JSON:
            return _decode_json(text)
        return [_decode_json(line) for line in text.split("\n") if line and not line.isspace()]
    except (ValueError, RecursionError) as error:
        raise BindingRefused(ErrorCode.BAD_REQUEST, f"{binding.name}: not JSON: {str(error)[:200]}") from None


def _read_text(binding: Binding, file: BoundFile, directory: str) -> str:
    where = f"{binding.name}, part {file.part!r}"
    try:
        descriptor = os.open(os.path.join(directory, file.file), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        code = ErrorCode.NOT_FOUND if error.errno == errno.ENOENT else ErrorCode.BAD_REQUEST
        raise BindingRefused(code, f"{where}: the file cannot be opened ({error.strerror})") from None
    try:
        size = os.fstat(descriptor).st_size
        if size != file.size_bytes:
            message = f"{where}: expected {file.size_bytes} bytes, found {size}"
            raise BindingRefused(ErrorCode.BAD_REQUEST, message)
        if size == 0:
            return ""
        # A mapping of a file does not count against the kernel's memory; only the string does.
        with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapped:
            return str(mapped, "utf-8", "strict")
    except UnicodeDecodeError as error:
        raise BindingRefused(ErrorCode.BAD_REQUEST, f"{where}: not UTF-8 at byte {error.start}") from None
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
