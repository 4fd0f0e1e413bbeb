"""Weights of events that a column of the data set holds: whether every row that is learned from has one."""

import numpy as np

from recsys.dataset_folder import DatasetFolder, read_parquet
from recsys.errors import UserError
from recsys.schema import LABEL, SPLITS, Kind, Side


def check_weights(dataset: DatasetFolder, name: str, where: str, *, positives_only: bool) -> None:
    """Raise UserError where a row that is learned from, or judged by, has no weight in the field `name`.

    `where` is the path of the setting that names the field. Reads the column once, file by file.
    """
    numbers = [field.name for field in dataset.schema.of(Side.CONTEXT, Kind.NUMERIC, Kind.OUTCOME)]
    if name not in numbers:
        raise UserError(f"{where}: the data set has no number of an event called '{name}'; it has {numbers or 'none'}.")
    for split in SPLITS[:2]:
        for file in dataset.event_files(split):
            table = read_parquet(file, [LABEL, name])
            values, labels = table[name].to_numpy(), table[LABEL].to_numpy()
            wrong = np.flatnonzero(~((values >= 0) & np.isfinite(values)) & ((labels > 0) | (not positives_only)))
            if len(wrong):
                raise UserError(
                    f"{where}: {file}, row {wrong[0]}: '{name}' is {values[wrong[0]]:g}; a weight is a number of 0 or "
                    "more, and every row needs one (nan: nothing stands there)."
                )
