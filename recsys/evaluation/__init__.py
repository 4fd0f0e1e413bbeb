"""Metrics, full-catalogue and time-sliced evaluation, baselines, and the report."""

REPORT_KIND = "report"
REPORT_FORMAT = 1
