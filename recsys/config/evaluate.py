"""Configuration of what is measured and against which baselines."""

from recsys.config.base import Section


class EvaluateConfig(Section):
    """What is measured and against which baselines."""
