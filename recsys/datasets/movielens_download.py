"""Fetching MovieLens from its makers."""

import io
import os
import shutil
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from recsys.errors import UserError

_URL = "https://files.grouplens.org/datasets/movielens/ml-{variant}.zip"
_TIMEOUT_S = 30


def download(variant: str, folder: Path, names: tuple[str, ...], url: str = _URL) -> None:
    """Fetch one variant and put its files `names` into `folder`, whole or not at all.

    Raises UserError without a network, or where the archive is broken or lacks a file.
    """
    address = url.format(variant=variant)
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as response:
            data = response.read()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {Path(name).name: archive.read(name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"data.download: cannot fetch {address} ({error}); fetch it where there is a network and unpack it into "
            f"{folder}."
        ) from None
    absent = [name for name in names if name not in members]
    if absent:
        raise UserError(f"data.download: {address} holds no '{absent[0]}', expected {', '.join(names)}.")
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
    try:
        for name in names:
            (aside / name).write_bytes(members[name])
        for name in names:
            os.replace(aside / name, folder / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
