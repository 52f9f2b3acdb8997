"""Prompt packs: what the root LM is told about its work, as versioned data, and how numbers get into it.

A pack is TOML: a name, a version, optionally the `base` it changes, and sections of text. Figures stand in the text as
`<<name>>` and are filled in from the run's actual limits, windows and prices, so that no number is ever a guess of the
prompt's author. Which of two opposite sections applies (child runs possible or not, priced or free, text or JSON) is
decided here from the figures; everything else is the pack's.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from service.errors import BadRequest
from service.loop.values import Limits, RenderedPrompt
from service.money import NanoUSD, format_usd

_PLACEHOLDER = re.compile(r"<<([a-z_]+)>>")
_CHARS_PER_TOKEN = 4
"""For advice on chunk sizes only; what must hold is counted by the ledger."""
_TYPICAL_OUTPUT_TOKENS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPack:
    """The sections of a system message, with placeholders for figures."""

    name: str
    version: int
    chunk_percent: int
    """How much of a sub-model's window one sub-call should be filled with, by this pack's advice."""
    contract: str
    """The namespace, the fences, what comes back, how to submit."""
    untrusted: str
    """Context and output are data, never instructions."""
    windows: str
    priced: str
    """The cost stance where sub-calls cost money."""
    free: str
    """The cost stance where they do not."""
    depth: str
    """When to start child runs, where that is possible."""
    no_depth: str
    text_answer: str
    json_answer: str
    example: str
    """One worked decomposition, of a topic that no run will have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFigures:
    """The numbers of one run."""

    root_window_tokens: int
    sub_model: str
    sub_window_tokens: int
    sub_input_nano_usd_per_mtok: int
    sub_output_nano_usd_per_mtok: int
    limits: Limits
    depth: int
    """Of the run that is prompted; 0 is the root run."""
    answer_is_json: bool = False

    @property
    def child_levels(self) -> int:
        """How many levels of child runs may stand below this run."""
        return max(self.limits.depth - self.depth, 0)

    @property
    def is_priced(self) -> bool:
        return self.sub_input_nano_usd_per_mtok > 0 or self.sub_output_nano_usd_per_mtok > 0


def base_of(toml_text: str) -> str | None:
    """The name of the pack that this one changes, if it says so."""
    base = _table(toml_text).get("base")
    if base is None or isinstance(base, str):
        return base
    raise BadRequest("`base` of a prompt pack must be the name of a pack", data={"section": "base"})


def parse_pack(toml_text: str, *, base: PromptPack | None = None) -> PromptPack:
    """Read a pack; sections that it leaves out are those of `base`.

    Raises:
        BadRequest: not TOML, a section missing, unknown or of the wrong type, or a placeholder that nothing fills.
    """
    table = {key: value for key, value in _table(toml_text).items() if key != "base"}
    kinds = {field.name: int if field.type is int else str for field in fields(PromptPack)}
    for key, value in table.items():
        if key not in kinds:
            raise BadRequest(f"a prompt pack has no section {key!r}; it has {', '.join(kinds)}", data={"section": key})
        if type(value) is not kinds[key]:
            found = type(value).__name__
            problem = f"section {key!r} of a prompt pack must be {kinds[key].__name__}, found {found}"
            raise BadRequest(problem, data={"section": key})
        for placeholder in _PLACEHOLDER.findall(value) if isinstance(value, str) else ():
            if placeholder not in _FIGURES:
                problem = f"nothing fills <<{placeholder}>> in section {key!r}; there are {', '.join(_FIGURES)}"
                raise BadRequest(problem, data={"section": key})
    missing = [] if base is not None else [name for name in kinds if name not in table]
    if missing:
        raise BadRequest(f"a prompt pack without a base needs all sections; missing: {', '.join(missing)}")
    pack = PromptPack(**table) if base is None else replace(base, **table)
    if not 1 <= pack.chunk_percent <= 100:
        problem = f"chunk_percent must be between 1 and 100, found {pack.chunk_percent}"
        raise BadRequest(problem, data={"section": "chunk_percent"})
    return pack


def _table(toml_text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(toml_text)
    except tomllib.TOMLDecodeError as exc:
        raise BadRequest(f"a prompt pack must be TOML: {exc}") from exc


def render(pack: PromptPack, figures: PromptFigures) -> RenderedPrompt:
    """The system message of a run. The same pack and figures give the same bytes."""
    sections = [
        pack.contract,
        pack.untrusted,
        pack.windows,
        pack.priced if figures.is_priced else pack.free,
        pack.depth if figures.child_levels else pack.no_depth,
        pack.json_answer if figures.answer_is_json else pack.text_answer,
        pack.example,
    ]
    filled = _figures(pack, figures)
    template = "\n\n".join(section.strip() for section in sections if section.strip())
    system = _PLACEHOLDER.sub(lambda found: filled[found[1]], template)
    digest = hashlib.sha256(system.encode("utf-8", "replace")).hexdigest()
    return RenderedPrompt(system=system, pack=f"{pack.name}@{pack.version}", sha256=digest)


_FIGURES = (
    "root_window_tokens",
    "sub_model",
    "sub_window_tokens",
    "sub_window_chars",
    "chunk_chars",
    "chunk_cost",
    "observation_chars",
    "turns",
    "sub_calls",
    "cost_limit",
    "cell_seconds",
    "child_levels",
)


def _figures(pack: PromptPack, figures: PromptFigures) -> Mapping[str, str]:
    limits = figures.limits
    window_chars = figures.sub_window_tokens * _CHARS_PER_TOKEN
    chunk_tokens = max(figures.sub_window_tokens * pack.chunk_percent // 100, 250)
    chunk_cost = (
        chunk_tokens * figures.sub_input_nano_usd_per_mtok
        + _TYPICAL_OUTPUT_TOKENS * figures.sub_output_nano_usd_per_mtok
    )
    values = (
        _number(figures.root_window_tokens),
        figures.sub_model,
        _number(figures.sub_window_tokens),
        _number(window_chars),
        _number(chunk_tokens * _CHARS_PER_TOKEN),
        format_usd(_to_show(-(-chunk_cost // 1_000_000))),
        _number(limits.observation_chars),
        _number(limits.turns),
        "no fixed number of" if limits.sub_calls is None else f"at most {_number(limits.sub_calls)}",
        "no fixed amount" if limits.cost is None else format_usd(limits.cost),
        _number(int(limits.cell_active_s)),
        _number(figures.child_levels),
    )
    return dict(zip(_FIGURES, values, strict=True))


def _number(value: int) -> str:
    return f"{value:,}"


def _to_show(nano_usd: int) -> NanoUSD:
    """Two significant digits, rounded up: advice, not a bill."""
    step = 10 ** max(len(str(nano_usd)) - 2, 0)
    return NanoUSD(-(-nano_usd // step) * step)
