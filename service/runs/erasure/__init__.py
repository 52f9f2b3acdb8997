"""Erasure: everything of a tenant, out of the store and off the disk, for good.

It works against the store alone, so the operator's command line needs no running service for it. Used by `cli`
and `web`.
"""
