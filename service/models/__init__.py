"""Language models: what they cost, what they can take, and how they are called.

Here live the port (`port`), its adapters (`openai_compatible`, and `scripted`, a deterministic model that is shipped
for tests, demonstrations and load), the arithmetic of prices (`prices`), where prices come from (`price_book`:
LiteLLM's published map and the operator's models file) and the `catalog`, which turns a model's name into a `Route`:
adapter, upstream name, card and price.

Not here: budgets (`ledger`), retries, fallbacks and the order reserve → call → settle (`runs`), and what a model is
told (`loop`). An adapter makes one attempt and translates whatever happened into a `ModelReply` or a
`ModelCallFailed`; no exception or type of a client library leaves it.

`wiring` opens and closes the catalog; `runs` and `gateway` ask it for routes and use `prices`. Siblings do not import
this room.
"""
