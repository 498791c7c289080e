"""Answers from a model: single, streamed, in batches, and how good they are. Read `prompt`, then `generate`."""
