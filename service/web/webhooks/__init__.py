"""`/v1/webhooks`: where a tenant wants to be told that its runs have ended, and what came of telling it."""
