"""Sessions: opened and changed, cells run in them directly, variables and files in and out."""
