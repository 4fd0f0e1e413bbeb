"""The tiny bundle, made once."""

from tests.scoring.conftest import bundle, tiny_bundle

__all__ = ["bundle", "tiny_bundle"]
