"""Language models behind OpenAI-compatible servers: how they are asked, and what they are shown."""
