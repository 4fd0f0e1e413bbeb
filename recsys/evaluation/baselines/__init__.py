"""Baselines that stand in the same table as the model, with the same histories, tuned on validation."""
