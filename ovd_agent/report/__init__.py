"""A run as one page; reads its folder only."""
