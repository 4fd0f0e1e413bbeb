"""The in-batch softmax with its gradients alone, and matrix products alone, in milliseconds.

Contenders take turns, call by call; of each the fastest call counts, which is what is left of a busy machine.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from recsys._tensorflow import keras, tf
from recsys.retrieval.softmax import sampled_softmax_loss
from recsys.retrieval.step import Trainer

SEED, TEMPERATURE = 1, 0.1

Call = Callable[[], Any]


def fastest_ms(calls: dict[str, Call], repeats: int) -> dict[str, float]:
    """Milliseconds of the fastest of `repeats` calls of each, after two that warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 2):
        for name, call in calls.items():
            started = time.perf_counter()
            tf.nest.map_structure(lambda tensor: tensor.numpy(), call())
            if repeat >= 2:
                times[name].append(time.perf_counter() - started)
    return {name: min(values) * 1e3 for name, values in times.items()}


def time_losses(batch: int, dim: int, repeats: int, *, xla: bool) -> dict[str, float]:
    """Our loss with its gradients in both precisions, the whole logits at once, also by XLA if asked, the products."""
    rng = np.random.default_rng(SEED)
    queries, candidates = (
        tf.math.l2_normalize(tf.constant(rng.normal(size=(batch, dim)), tf.float32), axis=1) for _ in range(2)
    )
    log_q = tf.constant(rng.normal(size=batch), tf.float32)

    def with_gradients(loss: Callable[[], tf.Tensor], **options: Any) -> Call:
        @tf.function(**options)
        def run() -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch([queries, candidates])
                value = loss()
            return [value, *tape.gradient(value, [queries, candidates])]

        return run

    def one_pass(products: tf.DType) -> tf.Tensor:
        return sampled_softmax_loss(queries, candidates, log_q, 1 / TEMPERATURE, products=products)

    def whole() -> tf.Tensor:
        logits = tf.matmul(queries, candidates, transpose_b=True) / TEMPERATURE - log_q
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.range(batch), logits=logits)
        return tf.reduce_mean(losses)

    return fastest_ms(
        {
            "ours": with_gradients(lambda: one_pass(tf.float32)),
            "bfloat16": with_gradients(lambda: one_pass(tf.bfloat16)),
            "whole logits": with_gradients(whole),
            **({"whole logits, XLA": with_gradients(whole, jit_compile=True)} if xla else {}),
            "products in blocks": softmax_products(queries, candidates, 256),
            "products at once": softmax_products(queries, candidates, batch),
        },
        repeats,
    )


def softmax_products(queries: tf.Tensor, candidates: tf.Tensor, rows: int) -> Call:
    """The three products of the loss with its gradients, and nothing between them, in blocks of `rows` queries."""

    @tf.function
    def run() -> list[tf.Tensor]:
        pulled, parts = tf.zeros_like(candidates), []
        for start in range(0, len(queries), rows):
            block = queries[start : start + rows]
            logits = tf.matmul(block, candidates, transpose_b=True)
            parts.append(tf.matmul(logits, candidates))
            pulled += tf.matmul(logits, block, transpose_a=True)
        return [tf.concat(parts, 0), pulled]

    return run


def step_products(trainer: Trainer, batch: int) -> dict[str, Call]:
    """Every matrix product of a step alone: the loss's three, and three for each dense layer of the towers."""
    rng = np.random.default_rng(SEED)

    def random(*shape: int) -> tf.Tensor:
        return tf.constant(rng.normal(size=shape), tf.float32)

    def layer(kernel: tf.Tensor) -> Call:
        inputs, upstream = random(batch, kernel.shape[0]), random(batch, kernel.shape[1])

        @tf.function
        def run() -> list[tf.Tensor]:
            return [
                tf.matmul(inputs, kernel),
                tf.matmul(inputs, upstream, transpose_a=True),
                tf.matmul(upstream, kernel, transpose_b=True),
            ]

        return run

    width = trainer.model.spec.config.output_dim
    calls = {"loss": softmax_products(random(batch, width), random(batch, width), 256)}
    for tower in (trainer.model.query_tower, trainer.model.item_tower):
        for one in tower.submodules:
            if isinstance(one, keras.layers.Dense):
                calls[f"{tower.name}/{one.name}"] = layer(tf.convert_to_tensor(one.kernel))
    return calls
