"""Webhooks: tenants are told by HTTP when their runs have ended.

    values        what a webhook and a delivery are, and which facts are told; pure
    signatures    Standard Webhooks: how a receiver knows that it was us; pure
    schedule      when a failed delivery is tried again, and when a webhook is given up; pure
    targets       which addresses may be asked: public ones, and those that the operator allows
    lookups       where names lead: in threads of their own, a few at once for each tenant
    post          one request to one address, bounded in size and time
    webhooks      the webhooks of one tenant, in the store
    deliveries    what is to be delivered and what came of it, with leases that survive a replica
    rooms         all tenants' webhooks over one store
    delivering    the loop of a replica: take in what has ended, deliver what is due

A run's end is noted in the step that ends it (`journal.ended`), so no end is missed. Deliveries are at least once: a
replica that dies between a receiver's answer and its own record leaves a lease that runs out, and the next one delivers
again under the same `webhook-id`.

Imported by `web` and `wiring`; imports `runs` and what is below it.
"""
