"""The operator's models file (`RLM_MODELS_FILE`): models that the published map lacks or has wrong.

    [models."openai/qwen3-32b"]
    window_tokens = 40960
    max_output_tokens = 8192
    input_usd_per_million = "0.10"
    output_usd_per_million = "0.30"
    # optional
    cached_input_usd_per_million = "0.05"
    cache_write_usd_per_million = "0.10"
    may_reason = true
    upstream = "Qwen/Qwen3-32B"            # the provider's own name for it
    base_url = "http://127.0.0.1:8000/v1"  # a server other than OPENAI_BASE_URL; it is called without a key

Prices are strings, so that they are exact. "0" is a price; leaving prices out is not.
"""

import re
import tomllib
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from service.errors import BadRequest
from service.models.prices import Price
from service.money import NANO_PER_USD

SIZE_LIMIT_BYTES = 4 << 20
LARGEST_USD_PER_MILLION = 1_000_000

_PRICES = (
    "input_usd_per_million",
    "output_usd_per_million",
    "cached_input_usd_per_million",
    "cache_write_usd_per_million",
)
_KEYS = ("window_tokens", "max_output_tokens", *_PRICES, "may_reason", "upstream", "base_url")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One entry of the file. None leaves a field to the published map."""

    window_tokens: int | None = None
    max_output_tokens: int | None = None
    may_reason: bool | None = None
    price: Price | None = None
    upstream: str | None = None
    base_url: str | None = None


def read_models_file(path: Path) -> dict[str, ModelEntry]:
    """Read and check the whole file.

    Raises:
        BadRequest: it cannot be read, or a line of it cannot be used; the message names file, line and entry.
    """
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise BadRequest(f"the models file {path} (RLM_MODELS_FILE) cannot be read: {exc.strerror}") from exc
    if len(raw) > SIZE_LIMIT_BYTES:
        raise BadRequest(f"the models file {path} has {len(raw)} bytes; at most {SIZE_LIMIT_BYTES} are read")
    try:
        text = raw.decode("utf-8")
        document = tomllib.loads(text)
    except UnicodeDecodeError as exc:
        raise BadRequest(f"the models file {path} must be UTF-8; byte {exc.start} is not") from exc
    except tomllib.TOMLDecodeError as exc:
        raise BadRequest(f"the models file {path} is not TOML: {exc}") from exc
    return _File(path, text).entries(document)


class _File:
    """Turns parsed TOML into entries; knows the text, so that a complaint can name its line."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def entries(self, document: dict[str, Any]) -> dict[str, ModelEntry]:
        for key in document:
            if key != "models":
                raise BadRequest(f'{self._path}: expected only tables [models."NAME"], found {key!r} at the top')
        models = document.get("models", {})
        if not isinstance(models, dict):
            raise BadRequest(f'{self._path}: expected tables [models."NAME"], found a value named models')
        return {name: self._entry(name, table) for name, table in models.items()}

    def _entry(self, name: str, table: object) -> ModelEntry:
        if not isinstance(table, dict):
            raise self._complaint(name, None, 'expected a table [models."NAME"]')
        for key in table:
            if key not in _KEYS:
                raise self._complaint(name, key, f"unknown key {key!r}; known are {', '.join(_KEYS)}")
        may_reason = table.get("may_reason")
        if may_reason is not None and not isinstance(may_reason, bool):
            raise self._complaint(name, "may_reason", f"expected true or false, found {may_reason!r}")
        return ModelEntry(
            window_tokens=self._tokens(name, table, "window_tokens"),
            max_output_tokens=self._tokens(name, table, "max_output_tokens"),
            may_reason=may_reason,
            price=self._price(name, table),
            upstream=self._text(name, table, "upstream"),
            base_url=self._base_url(name, table),
        )

    def _price(self, name: str, table: dict[str, Any]) -> Price | None:
        if not any(key in table for key in _PRICES):
            return None
        rates = {key: self._rate(name, table, key) for key in _PRICES}
        input_rate, output = rates["input_usd_per_million"], rates["output_usd_per_million"]
        if input_rate is None or output is None:
            missing = "input_usd_per_million" if input_rate is None else "output_usd_per_million"
            raise self._complaint(name, None, f"{missing} is missing: a price needs both input and output")
        cached, written = rates["cached_input_usd_per_million"], rates["cache_write_usd_per_million"]
        return Price(
            input=input_rate,
            cached_input=input_rate if cached is None else cached,
            cache_write=input_rate if written is None else written,
            output=output,
        )

    def _rate(self, name: str, table: dict[str, Any], key: str) -> int | None:
        value = table.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._complaint(name, key, f'expected a price in USD as a string such as "0.10", found {value!r}')
        try:
            amount = Decimal(value.strip())
        except InvalidOperation:
            raise self._complaint(name, key, f'expected a price in USD such as "0.10", found {value!r}') from None
        if not amount.is_finite() or not 0 <= amount <= LARGEST_USD_PER_MILLION:
            raise self._complaint(name, key, f"expected 0 to {LARGEST_USD_PER_MILLION} USD, found {value!r}")
        return int((amount * NANO_PER_USD).to_integral_value(ROUND_CEILING))

    def _tokens(self, name: str, table: dict[str, Any], key: str) -> int | None:
        value = table.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000_000:
            raise self._complaint(name, key, f"expected a whole number of tokens from 1 to 10⁹, found {value!r}")
        return value

    def _text(self, name: str, table: dict[str, Any], key: str) -> str | None:
        value = table.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            raise self._complaint(name, key, f"expected a string that is not empty, found {value!r}")
        return value

    def _base_url(self, name: str, table: dict[str, Any]) -> str | None:
        value = self._text(name, table, "base_url")
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise self._complaint(name, "base_url", "expected http(s)://HOST[:PORT]/PATH without credentials")
        return value.rstrip("/")

    def _complaint(self, name: str, key: str | None, what: str) -> BadRequest:
        where = f"{self._path}, line {self._line(name, key)}" if self._line(name, key) else str(self._path)
        return BadRequest(f'{where}: [models."{name}"]{f" {key}" if key else ""}: {what}')

    def _line(self, name: str, key: str | None) -> int | None:
        """The entry's header, or the key's line under it; None where the file spells them in another way."""
        quoted = r"[\"']?" + re.escape(name) + r"[\"']?"
        header = re.compile(rf"\s*\[?\s*models\s*\.\s*{quoted}\s*[\].=]")
        start = next((at for at, line in enumerate(self._lines) if header.match(line)), None)
        if start is None or key is None:
            return None if start is None else start + 1
        for at in range(start + 1, len(self._lines)):
            if self._lines[at].lstrip().startswith("["):
                break
            if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", self._lines[at]):
                return at + 1
        return start + 1
