"""Retention: runs that ended long ago are forgotten, with their child runs and with what their sessions had logged."""
