"""The options of every command, each written once as a dataclass field. Read `fields.py`, then `sft.py`."""
