"""Learning from a teacher: how far two models are apart, whose answers that is measured on, and the trainer."""
