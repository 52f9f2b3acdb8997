"""Trajectories: a run's events in the forms that other programs read. Pure."""
