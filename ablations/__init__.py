"""Grid files: one question each, declarations only."""
