"""A tenant's own account: what it has spent, what its key may still do, API keys, provider keys, audit log."""
