"""rlm-service: answers questions over contexts far larger than any model's window.

It runs a Recursive Language Model (arXiv 2512.24601). The context is a variable in a Python REPL; the root LM never
sees it. Turn by turn the root writes code, each code block runs as a cell in the session's own sandbox, code asks
sub-models through the gateway, and a submitted variable is the answer.

One idea carries everything: a run is a list of events. `loop` is two pure functions over that list; `runs` performs
what they command and journals what happened before acting on it. So a run can be followed, replayed without a model
and taken over after a crash, and a bug report is a list of events.

    cli · main        the command line; ASGI factories
    wiring            settings → adapters → use cases; owns every lifetime
    settings          the environment, read once
    configuration     the operator's file: models, profiles, prompt packs
    web · gateway     the public API; the only door from a sandbox to a model
    webhooks          tenants are told that their runs have ended
    runs              submit, drive, follow, cancel, take over, fork; sessions; the one metered call
    sandboxes · models · contexts · journal · ledger · tenants · metrics
                      where code runs · language models and prices · huge inputs · the event log · money · who pays ·
                      what Prometheus reads
    store             the Redis/Valkey connection, the embedded server, blobs
    loop              the RLM itself: events, commands, state machine, reply grammar, observations, prompt packs
    ids · money · errors
                      values that everybody may use

Each room imports only from rooms below it, never from its siblings (import-linter keeps it so). What runs inside a
sandbox is another package, `sandbox_image`, of which the service knows only the wire format. Words: docs/concepts.md.
"""
