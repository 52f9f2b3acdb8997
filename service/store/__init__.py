"""The store: the Redis or Valkey connection, the embedded server, Lua loading, and blobs (large payloads as files).

Lives here: everything that is about *keeping bytes* and nothing about what they mean. `connection.open_store`
is the one way to a server (a given URL, else an embedded one), `exchanges` are its round trips, `embedded` starts that
server in the data directory and shares it between processes, `fences` lets it refuse the writes of whoever lost what it
writes to, `hints` wakes up readers, `batching` coalesces concurrent writes, `blobs` keeps payloads under their digest,
`bodies` decides what is small enough to stand in the store itself.

Does not live here: keys, scripts and rules of runs, money or contexts; those belong to `journal`, `ledger` and
`contexts`, whose `redis_*` modules may import this room. Exceptions of the Redis client and of the file system
end here as `StoreFailed`.
"""
