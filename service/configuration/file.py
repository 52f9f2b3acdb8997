"""The whole file: its three sections, and that they fit together; and the profiles that are there without one."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from service.configuration.document import Document, read_document
from service.configuration.table import Mention, Table, tables
from service.errors import BadRequest
from service.loop.packs import PACKS, read_pack
from service.loop.prompts import PromptPack, base_of, parse_pack
from service.models.catalog import LONGEST_NAME, is_name
from service.models.entries import Api, ModelEntry
from service.models.prices import Price
from service.models.scripted.script import PREFIX as SCRIPTED_PREFIX
from service.runs.answering.profiles import DEFAULT_PACK, Profile
from service.runs.values import LIMIT_RANGES

SECTIONS = ("models", "profiles", "prompt_packs")
MOST_TOKENS = 1_000_000_000
SHIPPED_PROFILES = Path(__file__).with_name("shipped_profiles.toml")

_PRICES = (
    "input_usd_per_million",
    "output_usd_per_million",
    "cached_input_usd_per_million",
    "cache_write_usd_per_million",
)
_MODEL_KEYS = (
    *("window_tokens", "max_output_tokens", *_PRICES, "may_reason"),
    *("api", "upstream", "base_url", "api_key_env", "fallbacks", "direct_below_tokens"),
)
_COUNTED_LIMITS = {
    "turns": "max_turns",
    "depth": "max_depth",
    "tokens": "max_tokens",
    "sub_calls": "max_sub_calls",
}
_TIMED_LIMITS = {"wall_s": "timeout_s", "cell_active_s": "cell_timeout_s"}
"""The keys of the limits that a profile can set."""
_PROFILE_KEYS = (
    *("root", "sub", "prompt_pack", "max_cost"),
    *(*_COUNTED_LIMITS.values(), *_TIMED_LIMITS.values(), "direct_below_tokens"),
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What the file says; nothing when there is none."""

    path: Path | None = None
    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    prompt_packs: Mapping[str, PromptPack] = field(default_factory=dict)
    mentions: tuple[Mention, ...] = ()
    """What `fallbacks` and profiles name. Whether there are such models, the catalog knows."""

    def profile(self, name: str) -> Profile:
        """The profile of this name.

        Raises:
            BadRequest: there is none; the message says which there are.
        """
        if (found := self.profiles.get(name)) is not None:
            return found
        known = ", ".join(self.profiles)
        where = "name a file that has it in RLM_CONFIG" if self.path is None else f"{self.path} has none of that name"
        raise BadRequest(f"there is no profile {name[:80]!r}: {where}; there are: {known}")


def read_configuration(path: Path | None) -> Configuration:
    """Read and check the whole file, and the prompt packs that it names. The shipped profiles are there without it.

    Raises:
        BadRequest: something in it cannot be used; the message names file, line, table and what is allowed.
    """
    shipped = _profiles(read_document(SHIPPED_PROFILES, "the file of the shipped profiles"), PACKS)
    if path is None:
        return Configuration(profiles=shipped)
    document = read_document(path, "the configuration file (RLM_CONFIG)")
    for key in document.values:
        if key not in SECTIONS:
            allowed = ", ".join(f'[{section}."NAME"]' for section in SECTIONS)
            raise BadRequest(f"{document.place((key,))}: expected only tables {allowed}, found {key!r} at the top")
    packs = {table.name: _prompt_pack(table, path.parent) for table in tables(document, "prompt_packs")}
    return Configuration(
        path=path,
        models={table.name: _model(table) for table in tables(document, "models")},
        profiles=shipped | _profiles(document, (*PACKS, *packs)),
        prompt_packs=packs,
        mentions=(*_mentions(document, "models", "fallbacks"), *_mentions(document, "profiles", "root", "sub")),
    )


def _mentions(document: Document, section: str, *keys: str) -> Iterator[Mention]:
    for table in tables(document, section):
        for key in keys:
            named = table.texts(key) if key == "fallbacks" else (table.text(key),)
            yield from (table.mention(key, model) for model in named if model is not None)


def _model(table: Table) -> ModelEntry:
    table.check_keys(_MODEL_KEYS)
    if not is_name(table.name):
        raise table.complaint(None, f"expected a model's name of at most {LONGEST_NAME} characters without spaces")
    if table.name.startswith(SCRIPTED_PREFIX):
        raise table.complaint(None, "scripted models are part of the program and take no entry")
    fallbacks = table.texts("fallbacks")
    if table.name in fallbacks or len(set(fallbacks)) < len(fallbacks):
        raise table.complaint("fallbacks", "expected other models than this one, each once")
    api = table.one_of("api", tuple(Api))
    return ModelEntry(
        window_tokens=table.whole_number("window_tokens", least=1, most=MOST_TOKENS),
        max_output_tokens=table.whole_number("max_output_tokens", least=1, most=MOST_TOKENS),
        may_reason=table.flag("may_reason"),
        price=_price(table),
        upstream=table.text("upstream"),
        base_url=table.base_url("base_url"),
        api=None if api is None else Api(api),
        api_key_env=table.variable("api_key_env"),
        fallbacks=fallbacks,
        direct_below_tokens=table.whole_number("direct_below_tokens", least=1, most=MOST_TOKENS),
    )


def _price(table: Table) -> Price | None:
    if not any(key in table for key in _PRICES):
        return None
    rates = {key: table.price(key) for key in _PRICES}
    input_rate, output = rates["input_usd_per_million"], rates["output_usd_per_million"]
    if input_rate is None or output is None:
        missing = "input_usd_per_million" if input_rate is None else "output_usd_per_million"
        raise table.complaint(None, f"{missing} is missing: a price needs both input and output")
    cached, written = rates["cached_input_usd_per_million"], rates["cache_write_usd_per_million"]
    return Price(
        input=input_rate,
        cached_input=input_rate if cached is None else cached,
        cache_write=input_rate if written is None else written,
        output=output,
    )


def _profiles(document: Document, packs: tuple[str, ...]) -> dict[str, Profile]:
    return {table.name: _profile(table, packs) for table in tables(document, "profiles")}


def _profile(table: Table, packs: tuple[str, ...]) -> Profile:
    table.check_keys(_PROFILE_KEYS)
    if not _NAME.fullmatch(table.name):
        raise table.complaint(None, "expected a name of letters, digits and . _ / -, at most 64")
    limits: dict[str, int | float | None] = {"cost": table.amount("max_cost")}
    for name, key in _COUNTED_LIMITS.items():
        least, most = LIMIT_RANGES[name]
        limits[name] = table.whole_number(key, least=least, most=most)
    for name, key in _TIMED_LIMITS.items():
        least, most = LIMIT_RANGES[name]
        limits[name] = table.seconds(key, least=least, most=most)
    return Profile(
        root=table.text("root"),
        sub=table.text("sub"),
        prompt_pack=table.one_of("prompt_pack", packs) or DEFAULT_PACK,
        limits={name: limit for name, limit in limits.items() if limit is not None},
        direct_below_tokens=table.whole_number("direct_below_tokens", least=0, most=MOST_TOKENS) or 0,
    )


def _prompt_pack(table: Table, directory: Path) -> PromptPack:
    """A pack is known by its name in this file, which is what runs record."""
    table.check_keys(("path",))
    if table.name in PACKS or not _NAME.fullmatch(table.name):
        shipped = ", ".join(PACKS)
        problem = f"expected a name of letters, digits and . _ / -, other than those of the shipped packs ({shipped})"
        raise table.complaint(None, problem)
    path = table.text("path")
    if path is None:
        raise table.complaint(None, "path is missing: a prompt pack is a TOML file of its own")
    try:
        document = read_document(directory / path, "the prompt pack")
        return _parsed_pack(document, table.name)
    except BadRequest as exc:
        raise table.complaint("path", str(exc)) from exc


def _parsed_pack(document: Document, name: str) -> PromptPack:
    try:
        base_name = base_of(document.text)
        base = None if base_name is None else read_pack(base_name)
        pack = parse_pack(document.text, base=base)
    except BadRequest as exc:
        section: Any = exc.data.get("section")
        raise BadRequest(f"{document.place((section,) if isinstance(section, str) else ())}: {exc}") from exc
    if document.values.get("name", name) != name:
        problem = f"expected the name {name!r} that the configuration file gives it, or none, found {pack.name!r}"
        raise BadRequest(f"{document.place(('name',))}: {problem}")
    return replace(pack, name=name)
