"""Peak memory of training at one batch size, above that of the idle process; run as a process of its own.

    python benchmarks/parts/train_memory.py DATASET BATCH STEPS [plain|all]

`all` is with self-supervision and a search for gates by value, the dearest options in memory. Prints one JSON line:
{"idle_mib": ..., "peak_mib": ...}. Idle is after TensorFlow has been imported and has run something, before data and
model.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))


def growth_mib(dataset: Path, batch: int, steps: int, options: str = "plain") -> float:
    """What `steps` steps of training at this batch size add to an idle process at its peak, by running this file."""
    command = [sys.executable, str(Path(__file__)), str(dataset), str(batch), str(steps), options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["peak_mib"] - found["idle_mib"]


def _peak_mib() -> float:
    """The most that was resident so far. Not getrusage's: that starts from what the parent held when it forked."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kib,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kib) / 1024


def main() -> None:
    """Measure."""
    from benchmarks.parts.train_options import SEARCH
    from benchmarks.parts.train_trainer import make_trainer
    from recsys._tensorflow import tf
    from recsys.config.model import ModelConfig
    from recsys.config.train import TrainConfig
    from recsys.dataset_folder import DatasetFolder

    dataset, batch, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    tf.matmul(tf.ones([64, 64]), tf.ones([64, 64])).numpy()
    idle = _peak_mib()
    everything = sys.argv[4:] == ["all"]
    options = {"ssl": {}, "gates": {"mode": "value-dense", **SEARCH}} if everything else {}
    config = TrainConfig.model_validate({"batch_size": batch, **options})
    trainer, batches = make_trainer(DatasetFolder.open(dataset), ModelConfig(), config, search=everything)
    for _ in range(steps):
        float(trainer.train_step(next(batches), tf.constant(0.001)))
    print(json.dumps({"idle_mib": idle, "peak_mib": _peak_mib()}))


if __name__ == "__main__":
    main()
