"""What a tenant keeps: contexts, sessions and their bytes, counted at every level that has a limit, and given back."""
