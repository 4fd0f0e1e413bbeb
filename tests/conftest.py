"""Fixtures that every room uses: the tiny data set with a known optimum, and real data where the machine has it."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.tiny_dataset import write_tiny_dataset

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("without_deadline", deadline=None)
settings.load_profile("without_deadline")

ROOT = Path(__file__).resolve().parent.parent


def lacking(what: str) -> None:
    """Skip the calling test because the machine lacks `what`; with CI=true that is a failure instead."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have what this test needs: {what}")
    pytest.skip(what)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets: $RECSYS_DATA, else ../shared/data beside the checkout."""
    return Path(os.environ.get("RECSYS_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def real_data(data_root: Path):
    """A function from a data set's name to its folder; skips the test where it is missing."""

    def folder(name: str) -> Path:
        path = data_root / name
        if not path.is_dir():
            lacking(f"the real data set '{name}' is not in {data_root}; point RECSYS_DATA at the folder that holds it")
        return path

    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set folder of two blocks (see tests/tiny_dataset.py), written once; do not alter it."""
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "dataset")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tiny data set with towers of known answers (tests/tiny_bundle.py); do not alter it."""
    from tests.tiny_bundle import write_tiny_bundle

    return write_tiny_bundle(tiny_dataset, tmp_path_factory.mktemp("tiny_bundle"))


@pytest.fixture(scope="session")
def bundle(tiny_bundle: Path):
    """The tiny bundle, opened."""
    from recsys.scoring.bundle import LoadedBundle

    return LoadedBundle.open(tiny_bundle)


@pytest.fixture(scope="session")
def shop_run(tmp_path_factory: pytest.TempPathFactory):
    """`recsys run` on the tiny shop's CSV files, undisturbed: (configuration, outcome); do not alter its folder."""
    from tests.cli.command import recsys
    from tests.tiny_files import write_shop

    shop = write_shop(tmp_path_factory.mktemp("shop"))
    return shop, recsys("run", shop)
