"""The RLM itself: what to do next, given everything that has happened. Nothing here does anything.

A run is a list of events; the loop is two pure functions over that list, `machine.evolve(state, event)` and
`machine.decide(state)`. Rules of this room: no I/O, no clock (events carry their time), no randomness, no
environment, no threads, no third-party package. Whatever the loop needs to know arrives in an event. Hence a
journal replays to the same commands, on any machine, in any year.

What lives here: the events and commands, the state machine (`machine`, its state in `state`), the grammar of
the root LM's replies (`reply`), what the root LM is shown (`observation`, `transcript`, `notices`), what
happens when its window fills (`compaction`), and the prompt packs (`prompts`, and `packs` with their text).

What does not: performing commands (`runs`), keeping events (`journal`), money that must hold under
concurrency (`ledger`; the sums here only tell the model what is left).

Every room above may import it. It imports `ids`, `money`, `errors` and the standard library; import-linter keeps it so.
"""
