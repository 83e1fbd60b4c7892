"""Rollouts: a student plays tasks; episodes become trajectories, groups and demonstrations."""
