"""Request handling around recsys/scoring and its HTTP app."""
