"""The operator's own: every tenant, its keys, limits and money; models and prices; audit logs; ending this replica."""
