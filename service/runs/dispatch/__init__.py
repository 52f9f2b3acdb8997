"""Whose turn it is: what has to be had before a tenant's work is begun, beside money.

Lives here: the line in which tenants wait for what they share on a replica (`fair_line`, `places`), what a tenant and
its keys may have at once among all replicas, held for work under way (`counts`), what they may spend by day and month,
as the ledger's limits (`allowances`), and all of it for one tenant (`dispatch`).

Does not live here: the limits themselves, which are the `tenants`'; sandbox slots, which are the `sandboxes`'.
"""
