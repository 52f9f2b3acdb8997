"""Language models: what they cost, what they can take, and how they are called.

Here live the port (`port`), its adapters (`openai_compatible` and `anthropic_messages` over one `provider_connection`;
`litellm_bridge`, whose library runs in a process of its own; `scripted`, a deterministic model that is shipped for
tests, demonstrations and load), which provider is where and gets which key (`providers`), the arithmetic of prices
(`prices`), where prices come from (`price_book`: LiteLLM's published map and the operator's entries), the `breaker`,
and the `catalog`, which turns a model's name into a `Route`: adapter, upstream name, card, price and fallbacks.

Not here: budgets (`ledger`), retries, fallbacks and the order reserve → call → settle (`runs`), the operator's file
(`configuration`), and what a model is told (`loop`). An adapter makes one attempt and translates whatever happened into
a `ModelReply` or a `ModelCallFailed`; no exception or type of a client library leaves it.

`wiring` opens and closes the catalog; `runs` asks it for routes and uses `prices` and `breaker`; the operator's page of
models (`web`), `doctor` (`cli`) and the configuration file's entries are the others who import this room.
"""
