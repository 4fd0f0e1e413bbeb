"""A plain PyTorch loop over the same model, rows and loss; run by train_retrieval.py in its own environment.

    python benchmarks/parts/train_pytorch.py ARRAYS.npz STEPS BATCH [BATCH ...]

Prints one JSON line: {"4096": {"examples_per_second": ..., "loss": first batch's loss, "milliseconds": [...]}, ...}.
Rows are taken by indexing tensors (no per-row loader), and embedding gradients are sparse: PyTorch at its best.
"""

import json
import sys
import time

import numpy as np
import torch
from torch.nn import functional


def main() -> None:
    """Train on each batch size in turn."""
    path, steps, *sizes = sys.argv[1:]
    arrays = {name: torch.from_numpy(values) for name, values in np.load(path).items()}
    print(json.dumps({size: run(arrays, int(steps), int(size)) for size in sizes}))


def run(arrays: dict[str, torch.Tensor], steps: int, batch: int) -> dict[str, object]:
    """Examples a second over `steps` steps after two that warm up."""
    tables = {
        name: torch.nn.Embedding.from_pretrained(arrays[f"table_{name}"].clone(), freeze=False, sparse=True)
        for name in ("user", "item", "category")
    }
    optimiser = torch.optim.Adagrad([table.weight for table in tables.values()], lr=0.1, initial_accumulator_value=0.1)
    inverse, log_q = float(arrays["inverse_temperature"]), arrays["log_q"]
    rows = len(arrays["user"])
    order = torch.from_numpy(np.concatenate([np.arange(batch), np.random.default_rng(1).permutation(rows)]))
    first, times = 0.0, []
    for step in range(steps + 2):
        started = time.perf_counter()
        chosen = order[(torch.arange(batch) + step * batch) % len(order)]
        history, item = arrays["history"][chosen].long(), arrays["item"][chosen].long()
        present = (history > 0).float()
        pooled = (tables["item"](history) * present[:, :, None]).sum(1) / present.sum(1, keepdim=True)
        query = functional.normalize(tables["user"](arrays["user"][chosen].long()) + pooled, dim=1)
        other = tables["category"](arrays["category"][chosen].long())
        candidate = functional.normalize(tables["item"](item) + other, dim=1)
        logits = query @ candidate.T * inverse - log_q[item]
        hits = (item[:, None] == item[None, :]) & ~torch.eye(batch, dtype=torch.bool)
        loss = functional.cross_entropy(logits.masked_fill(hits, float("-inf")), torch.arange(batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step == 0:
            first = loss.item()
        if step >= 2:
            times.append(time.perf_counter() - started)
    return {"examples_per_second": batch * len(times) / sum(times), "loss": first}


if __name__ == "__main__":
    main()
