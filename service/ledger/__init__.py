"""The ledger: what may be spent, what is held for calls under way, what was spent, and for which call.

Lives here: accounts with limits, reservations that resolve exactly once (settled, released, or settled at their
estimate when nobody came back), and one entry per settled call. The rules are enforced by three scripts that run
atomically in the store (`reserve.lua`, `resolve.lua`, `limit.lua`); `redis_ledger` speaks to them.

Does not live here: prices and estimates (`models`), when to reserve and settle (`runs`, the metered call), which
levels there are: a level is a row in a reservation. `runs`, `gateway`, `web`, `console` and `cli` may import this
room; its siblings may not.
"""
