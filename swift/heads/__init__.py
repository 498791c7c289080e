"""Models that score, classify or embed texts: their losses, rows, batches, trainer and files."""
