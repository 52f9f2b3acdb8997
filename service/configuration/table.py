"""One table of the configuration file, read key by key; what is wrong is said with its line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any
from urllib.parse import urlsplit

from service.configuration.document import Document
from service.errors import BadRequest
from service.money import MAX_NANO_USD, NANO_PER_USD, NanoUSD, format_usd, parse_usd

LARGEST_USD_PER_MILLION = 1_000_000
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A model that the file names somewhere else than in the name of its own entry."""

    model: str
    place: str
    """File, line, table and key."""


class Table:
    """`[SECTION."NAME"]`. Every reader returns None for a key that is left out."""

    def __init__(self, document: Document, section: str, name: str, values: dict[str, Any]) -> None:
        self._document = document
        self._section = section
        self.name = name
        self._values = values

    def __repr__(self) -> str:
        return f'<Table [{self._section}."{self.name}"] of {self._document.path}>'

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def check_keys(self, known: tuple[str, ...]) -> None:
        """Refuse keys that nobody reads."""
        for key in self._values:
            if key not in known:
                raise self.complaint(key, f"unknown key {key!r}; known are {', '.join(known)}")

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self.complaint(key, f"expected a string that is not empty, found {value!r}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty when it is left out."""
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
            raise self.complaint(key, f'expected a list of strings such as ["a", "b"], found {value!r}')
        return tuple(value)

    def one_of(self, key: str, allowed: tuple[str, ...]) -> str | None:
        value = self._values.get(key)
        if value is not None and value not in allowed:
            raise self.complaint(key, f"expected one of {', '.join(allowed)}, found {value!r}")
        return value

    def flag(self, key: str) -> bool | None:
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.complaint(key, f"expected true or false, found {value!r}")
        return value

    def whole_number(self, key: str, *, least: float, most: float) -> int | None:
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.complaint(key, f"expected a whole number from {least:,} to {most:,}, found {value!r}")
        return value

    def seconds(self, key: str, *, least: float, most: float) -> float | None:
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.complaint(key, f"expected {least:g} to {most:,.0f} seconds, found {value!r}")
        return float(value)

    def amount(self, key: str) -> NanoUSD | None:
        """An amount in USD, above 0."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.complaint(key, f'expected an amount in USD as a string such as "0.50", found {value!r}')
        try:
            amount = parse_usd(value)
        except ValueError as exc:
            raise self.complaint(key, str(exc)) from None
        if not 0 < amount <= MAX_NANO_USD:
            most = format_usd(NanoUSD(MAX_NANO_USD))
            raise self.complaint(key, f"expected an amount above $0 and at most {most}, found {value!r}")
        return amount

    def price(self, key: str) -> int | None:
        """Whole nano-USD per million tokens, of a price in USD per million tokens; rounded up."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.complaint(key, f'expected a price in USD as a string such as "0.10", found {value!r}')
        try:
            price = Decimal(value.strip())
        except InvalidOperation:
            raise self.complaint(key, f'expected a price in USD such as "0.10", found {value!r}') from None
        if not price.is_finite() or not 0 <= price <= LARGEST_USD_PER_MILLION:
            raise self.complaint(key, f"expected 0 to {LARGEST_USD_PER_MILLION} USD, found {value!r}")
        return int((price * NANO_PER_USD).to_integral_value(ROUND_CEILING))

    def base_url(self, key: str) -> str | None:
        value = self.text(key)
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            _ = parts.port  # looks at it only now
        except ValueError:
            parts = urlsplit("")
        is_clean = value.isprintable() and not any(mark in value for mark in " @?#")
        if parts.scheme not in ("http", "https") or not parts.hostname or not is_clean:
            problem = "expected http(s)://HOST[:PORT]/PATH without credentials, spaces, query and fragment"
            raise self.complaint(key, problem)
        return value.rstrip("/")

    def variable(self, key: str) -> str | None:
        """The name of an environment variable; never its value, and a key pasted here is not quoted."""
        value = self.text(key)
        if value is not None and not _VARIABLE.fullmatch(value):
            raise self.complaint(key, "expected the name of an environment variable, such as MY_API_KEY; not a key")
        return value

    def complaint(self, key: str | None, what: str) -> BadRequest:
        """What is wrong with one key, or with the table as a whole."""
        return BadRequest(f"{self._place(key)}: {what}")

    def mention(self, key: str, model: str) -> Mention:
        """A model that this key names."""
        return Mention(model=model, place=self._place(key))

    def _place(self, key: str | None) -> str:
        keys = (self._section, self.name) if key is None else (self._section, self.name, key)
        return f'{self._document.place(keys)}: [{self._section}."{self.name}"]{f" {key}" if key else ""}'


def tables(document: Document, section: str) -> Iterator[Table]:
    """The tables of one section."""
    named = document.values.get(section, {})
    if not isinstance(named, dict):
        where = document.place((section,))
        raise BadRequest(f'{where}: expected tables [{section}."NAME"], found a value named {section}')
    for name, values in named.items():
        if not isinstance(values, dict):
            where = document.place((section, name))
            raise BadRequest(f'{where}: [{section}."{name}"]: expected a table, found a value')
        yield Table(document, section, name, values)
