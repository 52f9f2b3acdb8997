"""What was looked up a moment ago, so that it need not be again: bounded in number and in age."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The newest `most` values, none older than `age_s`. A clock that is set back makes them old at once."""

    def __init__(self, most: int, age_s: float, now: Callable[[], float]) -> None:
        self._most = most
        self._age_s = age_s
        self._now = now
        self._values: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Recent {len(self._values)} of {self._most}>"

    def get(self, key: K) -> V | None:
        found = self._values.get(key)
        if found is None:
            return None
        if not 0 <= self._now() - found[0] < self._age_s:
            del self._values[key]
            return None
        return found[1]

    def put(self, key: K, value: V) -> None:
        self._values[key] = (self._now(), value)
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)

    def clear(self) -> None:
        self._values.clear()
