"""Settings: read once from the environment, frozen, and handed down by `wiring`.

The only module that reads the environment. Every setting is documented in docs/settings.md.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import BadRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration of one replica."""

    data_directory: Path
    """`RLM_DATA_DIR`: blobs, session directories and the embedded store; one file system."""
    redis_url: str | None
    """`RLM_REDIS_URL`: a Redis or Valkey server; None starts the embedded one."""
    openai_base_url: str
    """`OPENAI_BASE_URL`: where `openai/…` and unprefixed models are called."""
    openai_api_key: str | None
    """`OPENAI_API_KEY`."""
    models_file: Path | None
    """`RLM_MODELS_FILE`: TOML with windows and prices that override the built-in price book."""
    sandbox_slots: int
    """`RLM_SANDBOX_SLOTS`: sandboxes that may be alive at once, warm ones included."""
    warm_sandboxes: int
    """`RLM_WARM_SANDBOXES`: how many to keep started ahead of need."""
    sandbox_memory_bytes: int
    """`RLM_SANDBOX_MEMORY_MB`."""
    unsafe_no_sandbox: bool
    """`RLM_UNSAFE_NO_SANDBOX=1`: run cells without isolation. For debugging the service itself, nothing else."""
    model_concurrency: int
    """`RLM_MODEL_CONCURRENCY`: model calls in flight at once per provider."""

    def __repr__(self) -> str:
        """Without the API key."""
        key = "set" if self.openai_api_key else "unset"
        return f"<Settings data={self.data_directory} redis={self.redis_url or 'embedded'} openai_key={key}>"


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read and check all settings.

    Raises:
        BadRequest: a value is unusable; the message names the variable.
    """
    env = os.environ if environment is None else environment
    home = Path(env.get("XDG_DATA_HOME") or Path(env.get("HOME", "/root")) / ".local/share")
    models_file = env.get("RLM_MODELS_FILE")
    return Settings(
        data_directory=Path(env.get("RLM_DATA_DIR") or home / "rlm-service").absolute(),
        redis_url=env.get("RLM_REDIS_URL") or None,
        openai_base_url=(env.get("OPENAI_BASE_URL") or "https://api.openai.com/v1").rstrip("/"),
        openai_api_key=env.get("OPENAI_API_KEY") or None,
        models_file=Path(models_file) if models_file else None,
        sandbox_slots=_whole_number(env, "RLM_SANDBOX_SLOTS", default=8, least=1, most=4096),
        warm_sandboxes=_whole_number(env, "RLM_WARM_SANDBOXES", default=1, least=0, most=1024),
        sandbox_memory_bytes=_whole_number(env, "RLM_SANDBOX_MEMORY_MB", default=2048, least=64, most=1 << 20) << 20,
        unsafe_no_sandbox=_switch(env, "RLM_UNSAFE_NO_SANDBOX"),
        model_concurrency=_whole_number(env, "RLM_MODEL_CONCURRENCY", default=64, least=1, most=10_000),
    )


def _whole_number(env: Mapping[str, str], name: str, *, default: int, least: int, most: int) -> int:
    text = env.get(name)
    if not text:
        return default
    try:
        number = int(text)
    except ValueError:
        raise BadRequest(f"{name} must be a whole number, found {text!r}") from None
    if not least <= number <= most:
        raise BadRequest(f"{name} must be between {least} and {most}, found {number}")
    return number


def _switch(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "")
    if text not in ("", "0", "1"):
        raise BadRequest(f"{name} must be 0 or 1, found {text!r}")
    return text == "1"
