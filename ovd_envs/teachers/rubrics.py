"""Names of what makes a step good. A scenario names its rubric, teachers know what it asks for."""

QUESTION = "question"
"""Search for what is needed, then answer from what was read."""
PROBLEM = "problem"
"""Reason step by step, then give the result."""
