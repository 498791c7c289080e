"""The rows of `TEMPLATES`, one module per kind of format."""
