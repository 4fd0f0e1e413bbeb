"""How much a tower's fields tell about each other: what correlated masking goes by, and what training reports of it."""

from dataclasses import dataclass

import numpy as np

from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.schema import Side


@dataclass(frozen=True, eq=False)
class FieldInformation:
    """Mutual information between the fields that a tower's views can hide, as training.json reports it."""

    fields: tuple[str, ...]
    matrix: np.ndarray
    identity: int | None

    def to_json(self, sets: np.ndarray | None = None) -> dict[str, object]:
        """Fields, matrix and, where given, what is hidden with each field (`sets` `[fields, fields] bool`)."""
        report: dict[str, object] = {"fields": list(self.fields), "mutual_information": self.matrix.tolist()}
        if sets is not None:
            report["hidden_together"] = {
                field: [other for other, hidden in zip(self.fields, row, strict=True) if hidden]
                for field, row in zip(self.fields, sets, strict=True)
            }
        return report


def field_information(dataset: DatasetFolder, fields: tuple[str, ...], side: Side) -> FieldInformation:
    """Mutual information `[fields, fields]` in nats from the data set's statistics; the id's with a field is all of it.

    Raises UserError where the data set was made without.
    """
    found = dataset.statistics.get("mutual_information", {}).get(side.value)
    if found is None:
        raise UserError(
            f"{dataset.path / 'statistics.json'}: mutual_information.{side.value} is missing, as this data set is of "
            "an earlier version; make it again."
        )
    place = {name: number for number, name in enumerate(found["fields"])}
    matrix = np.zeros((len(fields), len(fields)))
    for row, one in enumerate(fields):
        for column, other in enumerate(fields):
            if one in place and other in place:
                matrix[row, column] = found["matrix"][place[one]][place[other]]
            elif one in place or other in place:
                matrix[row, column] = found["id"][place[one if one in place else other]]
    identity = fields.index(side.value) if side.value in fields else None
    return FieldInformation(fields, matrix, identity)
