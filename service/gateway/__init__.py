"""The only door from a sandbox to a model.

An internal ASGI application on a unix socket of its own, hard-linked into every session directory and reachable from
nowhere else. It knows one route, `POST /host-calls`, and one kind of credential, the grant of a run. Everything it is
sent is hostile: sizes are checked while reading, shapes by schema, meanings by `runs.host_calls`.

Imported by `wiring` only.
"""
