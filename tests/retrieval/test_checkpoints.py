"""Checkpoints: whole or not at all, the one before where the newest is damaged, never another run's."""

from pathlib import Path

import numpy as np
import pytest

from recsys.errors import UserError
from recsys.retrieval.checkpoints import CheckpointFolder, best_file


def save(folder: CheckpointFolder, number: int) -> None:
    folder.save(number, {"table": np.full(1000, number, np.float32)}, {"epoch": number})


def newest(folder: CheckpointFolder) -> Path:
    return sorted(folder.folder.glob("checkpoint-*.npz"))[-1]


def test_the_newest_is_restored_and_old_ones_go(tmp_path: Path):
    folder = CheckpointFolder(tmp_path, "run")
    assert folder.latest() is None
    for number in (1, 2, 3, 10):
        save(folder, number)
    found = folder.latest()
    assert found is not None and found.state == {"epoch": 10}
    np.testing.assert_array_equal(found.arrays["table"], 10)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1, -30])
def test_a_truncated_newest_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, keep, capsys: pytest.CaptureFixture[str]
):
    folder = CheckpointFolder(tmp_path, "run")
    save(folder, 1)
    save(folder, 2)
    data = newest(folder).read_bytes()
    assert folder.latest() is not None and capsys.readouterr().err == ""
    newest(folder).write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    found = folder.latest()
    assert found is not None and found.state["epoch"] == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{newest(folder)} cannot be read" in said and "checkpoint-000000000001" in said
    assert folder.latest() is not None and capsys.readouterr().err == ""  # once is enough


def test_a_flipped_bit_is_noticed(tmp_path: Path):
    folder = CheckpointFolder(tmp_path, "run")
    save(folder, 1)
    save(folder, 2)
    data = bytearray(newest(folder).read_bytes())
    data[len(data) // 2] ^= 1
    newest(folder).write_bytes(data)
    found = folder.latest()
    assert found is not None and found.state["epoch"] == 1


def test_when_none_can_be_read_the_user_is_told_where(tmp_path: Path):
    folder = CheckpointFolder(tmp_path, "run")
    save(folder, 1)
    save(folder, 2)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"checkpoint-0+2\.npz.*remove the folder"):
        folder.latest()


def test_another_run_s_checkpoints_are_not_ours(tmp_path: Path):
    save(CheckpointFolder(tmp_path, "other settings"), 5)
    assert CheckpointFolder(tmp_path, "run").latest() is None


def test_the_best_weights_that_a_checkpoint_means_are_kept(tmp_path: Path):
    folder = CheckpointFolder(tmp_path, "run")
    for number in range(1, 6):
        folder.write_best(number, {"table": np.full(3, number)})
        save(folder, number)
    assert folder.read(best_file(5)).arrays["table"].tolist() == [5, 5, 5]
    assert folder.read(best_file(4)) is not None
    assert folder.read(best_file(3)) is None
