"""The names that a model can rely on, in the one dict that cells run in."""

import sys
import types
from collections.abc import Mapping
from typing import Any

from .answers import NAME as ANSWER
from .answers import Answer
from .host_functions import HostFunctions
from .protocol import MAX_NAME_CHARS, MAX_VARIABLES_REPORTED, Variable

_MAX_VARIABLES_NAMED = 50


class Namespace:
    """The variables of a session, beside the names that are put back before every cell."""

    def __init__(self, host_functions: HostFunctions) -> None:
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module  # dataclasses, pickle and typing look here for what a cell defines
        self.names: dict[str, Any] = module.__dict__
        self.answer = Answer()
        self._built_in: dict[str, Any] = {**host_functions.names(), **self._own_names()}
        self._restored = dict(self._built_in)
        self._before: dict[str, int] = {}
        self.restore()

    def _own_names(self) -> dict[str, Any]:
        def FINAL(value: Any) -> None:  # noqa: N802  (the contract's name)
            """Submit a value as the answer."""
            self._adopt_answer()
            self.answer.submit(value)
            self.names[ANSWER] = self.answer.value

        def SUBMIT(*values: Any, **fields: Any) -> None:  # noqa: N802
            """Submit a value as the answer. Named values become a dict, a single one is itself."""
            if len(values) + len(fields) == 1:
                FINAL([*values, *fields.values()][0])
            elif values:
                raise TypeError(f"SUBMIT takes one value, or named ones; found {len(values)} without a name")
            else:
                FINAL(fields)

        def FINAL_VAR(name: Any) -> None:  # noqa: N802
            """Submit the value of a variable, given by its name."""
            FINAL(self.look_up(name.strip().strip("\"'`")) if isinstance(name, str) else name)

        def SHOW_VARS() -> str:  # noqa: N802
            """The variables that exist, with types and sizes."""
            return ShownText("\n".join(map(_describe, self.variables())) or "no variables yet")

        return {f.__name__: f for f in (FINAL, SUBMIT, FINAL_VAR, SHOW_VARS)}

    def begin_run(self) -> None:
        """A session's next run: its answer is its own, and earlier contexts stay as variables like any other."""
        self._restored = dict(self._built_in)
        self.answer = Answer()
        self.names[ANSWER] = self.answer.value

    def bind(self, names: Mapping[str, Any]) -> None:
        """Names that the run brings: contexts, history, tools. They are restored like the built-in ones."""
        self._restored.update(names)
        self.names.update(names)

    def assign(self, names: Mapping[str, Any]) -> None:
        """Variables as a cell would make them: the next cell may change them for good."""
        for name in names.keys() - self._built_in.keys():
            self._restored.pop(name, None)
        self.names.update(names)

    def restore(self) -> None:
        """Before every cell."""
        self.names.update(self._restored)
        self._adopt_answer()
        self.answer.forget_encoding()
        self.names["__name__"] = "__main__"
        # Identities, not values: a reference here would keep alive what the cell deletes to make room.
        self._before = {name: id(value) for name, value in self.names.items()}

    def settle(self) -> None:
        """After every cell: what the model wrote to `answer` counts, whatever it wrote."""
        self._adopt_answer()

    def _adopt_answer(self) -> None:
        self.answer.adopt(self.names.get(ANSWER, self.answer.value))
        self.names[ANSWER] = self.answer.value

    def look_up(self, name: str) -> Any:
        """A variable's value; `answer` stands for its content.

        Raises:
            NameError: there is none; the message lists those there are.
        """
        if name == ANSWER:
            self._adopt_answer()
            return self.answer.content()
        if name in self.names and not name.startswith("__"):
            return self.names[name]
        made = [variable.name for variable in self.variables()]
        known = ", ".join(made[:_MAX_VARIABLES_NAMED]) + (", …" if len(made) > _MAX_VARIABLES_NAMED else "")
        raise NameError(f"there is no variable {name[:MAX_NAME_CHARS]!r}; variables that exist: {known or 'none yet'}")

    def changed_names(self) -> list[str]:
        """What the cell bound or rebound."""
        changed = [
            name
            for name, value in _by_name(self.names)
            if self._is_models(name) and self._before.get(name) != id(value)
        ]
        return sorted(name[:MAX_NAME_CHARS] for name in changed)[:MAX_VARIABLES_REPORTED]

    def variables(self) -> list[Variable]:
        """Those that the model has made: no modules, no names of ours, none with a leading underscore."""
        return [
            Variable(name=name[:MAX_NAME_CHARS], type_name=type(value).__name__[:MAX_NAME_CHARS], size=_size(value))
            for name, value in _by_name(self.names)
            if self._is_models(name) and not isinstance(value, types.ModuleType)
        ]

    def describe(self, names: list[str]) -> list[Variable]:
        """Variables by name, for those who bound them."""
        values = [(name, self.names[name]) for name in names]
        return [Variable(name=name, type_name=type(value).__name__, size=_size(value)) for name, value in values]

    def _is_models(self, name: str) -> bool:
        return not name.startswith("_") and name != ANSWER and name not in self._restored


class ShownText(str):
    """Text whose echo is itself, not its quoted form."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str.__str__(self)


def _by_name(names: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """`globals()[1] = 2` puts keys into a namespace that are not names."""
    return sorted(
        ((name, value) for name, value in list(names.items()) if type(name) is str), key=lambda entry: entry[0]
    )


def _describe(variable: Variable) -> str:
    size = "" if variable.size is None else f" of {variable.size}"
    return f"{variable.name}: {variable.type_name}{size}"


def _size(value: Any) -> int | None:
    if not hasattr(type(value), "__len__"):
        return None
    try:
        return len(value)
    except Exception:
        return None
