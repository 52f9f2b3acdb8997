"""The metered call: the one way to a language model, and the money around it.

Reserve, call, journal, settle; what to try after a failure (`attempts`); which ledger rows are charged (`purse`). It
knows nothing of sandboxes, sessions or the loop's turns. Used by every part of `runs` that asks a model.
"""
