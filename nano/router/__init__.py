"""OpenAI-compatible HTTP front door: `python -m nano.router`. See docs/router.md."""
