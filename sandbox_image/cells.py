"""Runs one cell: compiles it with top-level `await`, echoes a bare last expression, keeps its source for tracebacks."""

import ast
import linecache
from collections.abc import Coroutine
from inspect import CO_COROUTINE
from types import CodeType
from typing import TYPE_CHECKING, Any

from .echo import bounded_repr
from .tracebacks import CELL_FILE_PREFIX

if TYPE_CHECKING:
    import asyncio

_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_MAX_SOURCES_KEPT = 2_000


class CellRunner:
    """Executes code in one namespace. Owns the event loop that top-level `await` runs on: one for the kernel's life,
    unless a cell closes it."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0

    def compile_cell(self, source: str) -> "CompiledCell":
        """Syntax errors come out of here."""
        self._count += 1
        file = f"{CELL_FILE_PREFIX}{self._count}>"
        remember_source(file, source)
        if self._count > _MAX_SOURCES_KEPT:
            linecache.cache.pop(f"{CELL_FILE_PREFIX}{self._count - _MAX_SOURCES_KEPT}>", None)
        return _compile_cell(source, file)

    def run_cell(self, cell: "CompiledCell") -> None:
        """Whatever the code raises comes out of here, `SystemExit` and `KeyboardInterrupt` included."""
        body, last = cell
        self._execute(body)
        if last is not None:
            value = self._execute(last)
            if value is not None:
                print(bounded_repr(value))

    def _execute(self, code: CodeType) -> Any:
        if not code.co_flags & CO_COROUTINE:
            return eval(code, self._namespace)  # noqa: S307  (executing the model's code is what a kernel is for)
        return self._run_coroutine(eval(code, self._namespace))  # noqa: S307

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        # Not ahead of need, as what else models import: few cells wait, and every idle sandbox would hold it thrice.
        import asyncio  # noqa: PLC0415

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                # Interrupted from outside the task: let it unwind a little, but a task that
                # refuses to end must not hold the kernel.
                task.cancel()
                for _ in range(3):
                    self._loop.call_soon(self._loop.stop)
                    self._loop.run_forever()
            raise


def remember_source(file: str, source: str) -> None:
    """So that tracebacks and `inspect.getsource` find it. No modification time: it is never looked for on disk."""
    lines = source.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    linecache.cache[file] = (len(source), None, lines, file)


CompiledCell = tuple[CodeType, CodeType | None]
"""The cell without its last bare expression, and that expression (None when it ends in a statement or `;`)."""


def _compile_cell(source: str, file: str) -> CompiledCell:
    tree = compile(source, file, "exec", _FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    last: CodeType | None = None
    if tree.body and isinstance(tree.body[-1], ast.Expr) and not _ends_with_semicolon(source, tree.body[-1]):
        expression = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
        last = compile(expression, file, "eval", _FLAGS, dont_inherit=True)
    return compile(tree, file, "exec", _FLAGS, dont_inherit=True), last


def _ends_with_semicolon(source: str, last: ast.Expr) -> bool:
    lines = source.encode("utf-8", "surrogatepass").split(b"\n")
    line = lines[(last.end_lineno or 1) - 1] if last.end_lineno and last.end_lineno <= len(lines) else b""
    return line[last.end_col_offset or 0 :].split(b"#")[0].strip() == b";"
