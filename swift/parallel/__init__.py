"""Models whose layers are cut between processes (tensor parallel): read `load`, then `layers`, `cuts` and `lora`."""
