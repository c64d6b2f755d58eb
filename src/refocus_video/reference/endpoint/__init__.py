"""A reference model behind an OpenAI-compatible server."""
