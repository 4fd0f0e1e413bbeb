"""Typed configuration from one YAML file; an unknown or ill-typed key is an error that names its path."""

from recsys.config.loading import Config, load_config, parse_config

__all__ = ["Config", "load_config", "parse_config"]
