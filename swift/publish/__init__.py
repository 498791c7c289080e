"""Publishing: what of a directory leaves, its card, the search for secrets, the way to a hub and back."""
