"""A rule-based teacher that sees the gold passages, the answers and the worked solutions."""
