"""A language model as teacher, behind an OpenAI-compatible server."""
