"""Algorithms: groups of trajectories to training rows."""
