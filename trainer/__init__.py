"""Reference trainer for on-policy distillation: objectives as values, a loop that yields records."""
