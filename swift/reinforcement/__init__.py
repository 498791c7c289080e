"""Learning from rewards: answers of the model's own, what they are worth, GRPO and RLOO, and the trainer."""
