"""The configuration file (`RLM_CONFIG`): the operator's models, profiles and prompt packs, read and checked whole.

One TOML file with three kinds of tables: `[models."NAME"]` (what a model is called, costs and falls back to),
`[profiles."NAME"]` (a way to answer: models, limits, prompt pack) and `[prompt_packs."NAME"]` (a file with the words).
Everything wrong with it is told at start with file, line and what would be right; nothing in it is without a user.

Not here: what the values mean. `models` resolves entries, `runs` renders packs, enforces limits and applies profiles of
the API (`cli` those of `ask`). Secrets are not here either: the file names the variables that hold keys, never keys.

`wiring` reads it for the service and `cli` for `ask --profile`, `demo` and `doctor`; nobody else does.
"""
