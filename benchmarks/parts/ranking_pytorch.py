"""Plain PyTorch DeepFM and DCN-v2, as people write them; run by train_ranking.py in an environment of its own.

    python benchmarks/parts/ranking_pytorch.py ROWS.npz

Reads requests, one JSON object a line, from standard input and answers each with one line:
{"weights": "…npz", "model": "deepfm" or "dcn_v2", "sparse": bool} makes a model, {"steps": n} trains it for n steps;
both answer {"loss": first batch's loss or null, "seconds": [of each step], "threads": n}.
Rows are in tensors already, a batch is a slice; one embedding table for all fields, with offsets; Adam of the library.
"""

import json
import sys
import time

import numpy as np
import torch
from torch import nn


class Model(nn.Module):
    """DeepFM (first-order terms and a bias, pairs, a network) or DCN-v2 (crosses and a network side by side)."""

    def __init__(self, weights: dict[str, torch.Tensor], kind: str, sparse: bool) -> None:
        super().__init__()
        self.kind = kind
        self.embedding = nn.Embedding.from_pretrained(weights["table"], freeze=False, sparse=sparse)
        self.hidden = nn.ModuleList(_linear(weights, f"hidden_{n}") for n in range(int(weights["hidden"])))
        self.output = _linear(weights, "output")
        if kind == "deepfm":
            self.first = nn.Embedding.from_pretrained(weights["first"], freeze=False, sparse=sparse)
            self.bias = nn.Parameter(weights["bias"].clone())
        else:
            self.cross = nn.ModuleList(_linear(weights, f"cross_{n}") for n in range(int(weights["crosses"])))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits `[batch]` of table rows `[batch, fields]`."""
        vectors = self.embedding(rows)
        start = vectors.flatten(1)
        hidden = start
        for layer in self.hidden:
            hidden = torch.relu(layer(hidden))
        if self.kind == "deepfm":
            pairs = 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1)
            return pairs + self.first(rows).sum((1, 2)) + self.bias + self.output(hidden)[:, 0]
        crossed = start
        for layer in self.cross:
            crossed = start * layer(crossed) + crossed
        return self.output(torch.cat([crossed, hidden], 1))[:, 0]

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Adam over everything, or over all but sparse tables, which have their own."""
        tables = [module for module in self.modules() if isinstance(module, nn.Embedding) and module.sparse]
        apart = {id(table.weight) for table in tables}
        found: list[torch.optim.Optimizer] = [torch.optim.Adam([p for p in self.parameters() if id(p) not in apart])]
        if tables:
            found.append(torch.optim.SparseAdam([table.weight for table in tables]))
        return found


def _linear(weights: dict[str, torch.Tensor], name: str) -> nn.Linear:
    kernel = weights[f"{name}_kernel"]
    bias = weights.get(f"{name}_bias")
    layer = nn.Linear(*kernel.shape, bias=bias is not None)
    layer.weight = nn.Parameter(kernel.T.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


class Run:
    """A model in training over rows and labels, batch after batch."""

    def __init__(self, request: dict, rows: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        weights = {name: torch.from_numpy(values) for name, values in np.load(request["weights"]).items()}
        self.model = Model(weights, request["model"], request["sparse"])
        self.optimisers = self.model.optimisers()
        self.rows, self.labels, self.batch, self.step = rows, labels, batch, 0

    def train(self, steps: int) -> dict[str, object]:
        """Time so many steps."""
        loss_of = nn.BCEWithLogitsLoss()
        first, seconds = None, []
        for _ in range(steps):
            started = time.perf_counter()
            begin = self.step * self.batch % (len(self.labels) - self.batch + 1)
            part = slice(begin, begin + self.batch)
            loss = loss_of(self.model(self.rows[part]), self.labels[part])
            for optimiser in self.optimisers:
                optimiser.zero_grad()
            loss.backward()
            for optimiser in self.optimisers:
                optimiser.step()
            first = loss.item() if self.step == 0 else first
            self.step += 1
            seconds.append(time.perf_counter() - started)
        return {"loss": first, "seconds": seconds, "threads": torch.get_num_threads()}


def main() -> None:
    """Answer requests until the input ends."""
    arrays = np.load(sys.argv[1])
    rows, labels = torch.from_numpy(arrays["rows"]).long(), torch.from_numpy(arrays["labels"]).float()
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        if "model" in request:
            run = Run(request, rows, labels, int(arrays["batch"]))
        assert run is not None
        print(json.dumps(run.train(request.get("steps", 0))), flush=True)


if __name__ == "__main__":
    main()
