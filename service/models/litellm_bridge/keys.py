"""Which variables hold the keys of LiteLLM's providers, and which of them certainly want one. Pure data.

LiteLLM itself says so only once it is imported, which takes seconds, so what is needed before a run stands here; a test
asks LiteLLM whether it is still true. A provider that is not listed may need no key (a server of one's own), or have
credentials that are no key (a cloud's): of those nothing is said before they are called.
"""

from collections.abc import Mapping

_WANT_KEYS: Mapping[str, tuple[str, ...]] = {
    "ai21": (),
    "ai21_chat": ("AI21_API_KEY",),
    "anthropic": (),
    "baseten": (),
    "cerebras": (),
    "codestral": (),
    "cohere": ("CO_API_KEY",),
    "cohere_chat": ("COHERE_API_KEY", "CO_API_KEY"),
    "dashscope": (),
    "deepinfra": (),
    "deepseek": (),
    "featherless_ai": (),
    "fireworks_ai": ("FIREWORKS_API_KEY",),
    "gemini": ("GOOGLE_API_KEY",),
    "groq": (),
    "huggingface": ("HF_TOKEN",),
    "mistral": (),
    "moonshot": (),
    "nebius": (),
    "novita": (),
    "openai": (),
    "openrouter": ("OR_API_KEY",),
    "perplexity": ("PERPLEXITYAI_API_KEY",),
    "together_ai": ("TOGETHER_API_KEY",),
    "xai": (),
}
"""The providers that cannot be called without a key, and the variables that LiteLLM reads it from besides those which
follow from the name."""


def key_variables(provider: str) -> tuple[str, ...]:
    """The variables that may hold a provider's key; the first that is set counts."""
    upper = provider.upper()
    names = (f"{upper}_API_KEY", f"{upper.replace('_', '')}_API_KEY", *_WANT_KEYS.get(provider, ()))
    return tuple(dict.fromkeys(names))


def wants_key(provider: str) -> bool:
    """Whether a provider at its own address certainly cannot be called without a key."""
    return provider in _WANT_KEYS
