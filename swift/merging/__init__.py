"""Merging adapters into the weights of their base: read plan, updates, stream; verify tells what came out."""
