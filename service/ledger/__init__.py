"""The ledger: what may be spent, what is held for calls under way, what was spent, and for which call.

Lives here: accounts with limits (run, session, key and tenant by day and month), charges whose holds resolve exactly
once (settled, released, or settled at their estimate when nobody came back), one entry per settled call, and the sums
that reports are made of. The rules are enforced by two scripts that run atomically in the store (`reserve.lua`, where
the theory stands, and `resolve.lua`); `script_calls` builds the calls, `redis_ledger` makes them.

Does not live here: prices and estimates (`models`), when to reserve and settle, and which accounts a call is charged
to (`runs`, the metered call). `runs`, `gateway`, `web`, `console` and `cli` may import this room; its siblings may
not.
"""
