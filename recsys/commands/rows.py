"""What ingestion took and what it rejected, as it is said on the terminal."""

from pathlib import Path
from typing import Any

from recsys.commands.common import notes


def print_rows(dataset: Path) -> None:
    """Rows in, accepted and rejected of each table; of the rejected how many by reason, one example each, and where."""
    from recsys.dataset_folder import DatasetFolder
    from recsys.ingestion.checks import notes as found_notes
    from recsys.ingestion.rejected import examples

    folder = DatasetFolder.open(dataset)
    rows: dict[str, Any] = folder.manifest["rows"]
    tables: dict[str, Any] = {"events": rows, **{name: rows[name] for name in ("items", "users") if name in rows}}
    for name, table in tables.items():
        if name != "events" and not table["rejected"]:
            continue
        what = "Rows" if name == "events" else f"Rows of {name}"
        notes.print(f"{what}: {table['in']:,} in = {table['accepted']:,} accepted + {table['rejected']:,} rejected.")
        found = examples(dataset / "rejected", name, set(table["by_reason"]))
        for reason, count in sorted(table["by_reason"].items(), key=lambda one: -one[1]):
            place = "{}, row {}".format(*found[reason]) if reason in found else "none listed"
            notes.print(f"  {count:,} × {reason}; for example {place}", soft_wrap=True, markup=False)
    for note in found_notes(folder):
        notes.print(f"Note: {note}", style="yellow", soft_wrap=True, markup=False)
    if any(table["rejected"] for table in tables.values()):
        notes.print(f"Rejected rows, with file, row, reason and content: {dataset / 'rejected'}/", soft_wrap=True)
