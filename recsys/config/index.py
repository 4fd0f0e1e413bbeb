"""Configuration of the FAISS retrieval index."""

from recsys.config.base import Section


class IndexConfig(Section):
    """The FAISS retrieval index."""
