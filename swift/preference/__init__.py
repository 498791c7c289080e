"""Learning from preferences: pairs and single answers, their losses, the reference, and the trainer."""
