"""Runs: a configuration becomes parts, updates, logs and a summary in a folder."""
