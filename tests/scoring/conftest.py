"""The tiny bundle, made once."""

from pathlib import Path

import pytest

from recsys.scoring.bundle import LoadedBundle
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle folder with towers of known answers; do not alter it."""
    return write_tiny_bundle(tiny_dataset, tmp_path_factory.mktemp("tiny_bundle"))


@pytest.fixture(scope="session")
def bundle(tiny_bundle: Path) -> LoadedBundle:
    """The same, opened."""
    return LoadedBundle.open(tiny_bundle)
