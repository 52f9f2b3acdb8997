"""Tenants: who pays, who calls, and how much of everything they may have.

Lives here: tenants and their API keys (`tenants`, `api_keys`), how fast and how much at once (`rates`, `quotas`,
`storage`), whether a tenant may go on spending (`suspensions`), its own keys for model providers (`provider_keys`), and
the record of who changed what (`audit`). Secrets of the installation are `key_files`.

Does not live here: money, which is the `ledger`'s (the amounts per day and month stand in `CallerLimits` and are set
there as limits of accounts); HTTP; what a run is. Every read takes the tenant from the credential, never from the
request.

Imported by `runs`, `gateway`, `web`, `cli` and `wiring`; imports `store` and what is below it.
"""
