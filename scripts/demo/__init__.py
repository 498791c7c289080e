"""How the built-in demo models are made: facts, a grammar of dialogues, a tokenizer, the training and the scores."""
