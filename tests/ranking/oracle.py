"""The ranker in slow NumPy float64, value by value, straight from docs/ranking.md."""

import numpy as np

from recsys.ranking.model import Ranker
from recsys.ranking.spec import FieldSpec, Reading
from recsys.schema import FIRST_VALUE_ID, MISSING_ID


def hard(model: Ranker) -> np.ndarray:
    """The gates of a model with hard gates, `[rows]`."""
    logits = model.gates.logits.numpy().astype(np.float64)
    return np.where(logits > 0, model.gates.scale, 0.0)


def row_of(model: Ranker, field: FieldSpec, value: int) -> int:
    part = next(table for table in model.spec.tables if table.name == field.table)
    known = 0 <= value < len(part.row_of)
    return model.spec.offsets[field.table] + int(part.row_of[value if known else 2])


def bucket(field: FieldSpec, value: float, size: int) -> int:
    if np.isnan(value):
        return MISSING_ID
    if field.reading is Reading.VALUE:
        return FIRST_VALUE_ID
    if field.reading is Reading.QUANTILE:
        found = sum(edge <= value for edge in field.edges)
    else:
        found = int(value) if value <= 2 else int(np.floor(np.log(value) ** 2))
        found = max(found - field.lowest, 0)
    return min(found + FIRST_VALUE_ID, size - 1)


def encode(model: Ranker, features: dict[str, np.ndarray], gates: np.ndarray) -> np.ndarray:
    """Gated field vectors `[batch, fields, width]`; `gates` `[rows]`."""
    table = model.table.table.numpy().astype(np.float64)
    batch = len(next(iter(features.values())))
    out = np.zeros((batch, len(model.spec.fields), table.shape[1]))
    for row in range(batch):
        for place, field in enumerate(model.spec.fields):
            value = features[field.name][row]
            size = model.spec.part(field.table).stop - model.spec.part(field.table).start
            if field.is_number:
                factor = 1.0
                if field.reading is Reading.VALUE and not np.isnan(value):
                    factor = np.clip((value - field.mean) / field.std, -10, 10)
                found = row_of(model, field, bucket(field, float(value), size))
                out[row, place] = gates[found] * table[found] * factor
            elif not field.is_list:
                found = row_of(model, field, int(value))
                out[row, place] = gates[found] * table[found]
            else:
                rows = [row_of(model, field, int(one)) for one in value if one != 0] or [row_of(model, field, 1)]
                weights = np.array([min(1.0, gates[one]) for one in rows])
                vectors = np.stack([gates[one] * table[one] for one in rows])
                if field.reading is Reading.MEAN:
                    out[row, place] = vectors.sum(0) / max(1.0, weights.sum())
                else:
                    query = out[row, model.spec.candidate, : model.spec.dim]
                    out[row, place] = attend(model, field, vectors, query, weights)
    return out


def attend(model: Ranker, field: FieldSpec, vectors: np.ndarray, query: np.ndarray, openness: np.ndarray) -> np.ndarray:
    layer = model.layer.attentions[field.name]
    w1, b1, w2, b2 = (v.numpy().astype(np.float64) for v in (*layer.hidden.weights, *layer.score.weights))
    keys = vectors[:, : len(query)]
    scores = [np.maximum(np.concatenate([key, query, key * query]) @ w1 + b1, 0) @ w2 + b2 for key in keys]
    weights = np.exp(np.array(scores)[:, 0]) * openness
    return weights @ vectors / weights.sum() if weights.sum() > 0 else np.zeros(vectors.shape[1])


def network(net, x: np.ndarray) -> np.ndarray:
    for layer in net.dense:
        kernel, bias = (v.numpy().astype(np.float64) for v in layer.weights)
        x = np.maximum(x @ kernel + bias, 0)
    return x


def dense(layer, x: np.ndarray) -> np.ndarray:
    weights = [v.numpy().astype(np.float64) for v in layer.weights]
    return x @ weights[0] + (weights[1] if len(weights) > 1 else 0.0)


def logits(model: Ranker, features: dict[str, np.ndarray], gates: np.ndarray, task: str | None = None) -> np.ndarray:
    """`[batch] float64`, of the click or of another task."""
    found = encode(model, features, gates)
    dim, kind = model.spec.dim, model.spec.config.backbone
    backbone = model.backbone if task is None else model.heads[task]
    v = found[..., :dim]
    flat = v.reshape(len(v), -1)
    column = dim if task is None else dim + 1 + model.spec.tasks.index(task)
    first = found[..., column].sum(1) + float(backbone.bias) if model.spec.linear else 0.0
    count = v.shape[1]
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    products = np.stack([(v[:, i] * v[:, j]).sum(1) for i, j in pairs], axis=1)
    if task is not None and kind in ("fm", "deepfm"):
        weighed = v * backbone.pair_weights.numpy().astype(np.float64)
        products = np.stack([(weighed[:, i] * v[:, j]).sum(1) for i, j in pairs], axis=1)
    if kind == "lr":
        return first
    if kind == "fm":
        return products.sum(1) + first
    if kind == "deepfm":
        return products.sum(1) + first + dense(backbone.output_layer, network(backbone.network, flat))[:, 0]
    if kind == "ipnn":
        both = np.concatenate([flat, products], axis=1)
        return dense(backbone.output_layer, network(backbone.network, both))[:, 0]
    if kind == "two_tower":
        ends = []
        for name, places in backbone.sides.items():
            side = v[:, places.numpy()].reshape(len(v), -1)
            ends.append(dense(backbone.ends[name], network(backbone.networks[name], side)))
        return (ends[0] * ends[1]).sum(1) + float(backbone.bias)
    crossed = flat
    for kernel, bias in zip(backbone.kernels, backbone.biases, strict=True):
        w, b = kernel.numpy().astype(np.float64), bias.numpy().astype(np.float64)
        crossed = crossed + (flat * (crossed @ w) + b if kind == "dcn" else flat * (crossed @ w + b))
    return dense(backbone.output_layer, np.concatenate([crossed, network(backbone.network, flat)], axis=1))[:, 0]
