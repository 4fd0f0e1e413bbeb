"""Metrics, full-catalogue and time-sliced evaluation, baselines, and the report."""
