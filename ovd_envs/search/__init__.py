"""Search engines for environments."""
