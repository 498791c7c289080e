"""Rows of models, one file per family; every file here is read at first use."""
