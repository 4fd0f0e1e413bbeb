"""The two-tower model of the TensorFlow Recommenders retrieval tutorial, as it stands there: user id and item id."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.evaluation.queries import Events, Queries

DIMENSION = 32
EPOCHS = 3
BATCH_SIZE = 8192
LEARNING_RATE = 0.1
SHUFFLE = 100_000


@dataclass(eq=False)
class TutorialTwoTower:
    """Dot products of id embeddings. Users without training events share row 0 of `users`, which is never trained.

    `users` is `[users + 1, dim]`, `items` `[catalogue, dim]`; `learned` `[users] bool`.
    """

    users: np.ndarray
    items: np.ndarray
    learned: np.ndarray
    dynamic: bool = False

    @classmethod
    def fit(cls, events: Events, users: int, catalogue: int, *, seed: int) -> "TutorialTwoTower":
        """Train on positives: embeddings of 32, the library's Retrieval task, Adagrad 0.1, 3 epochs.

        The settings are those of https://www.tensorflow.org/recommenders/examples/basic_retrieval.
        """
        from recsys._tensorflow import keras, tf

        import tensorflow_recommenders as tfrs  # isort: skip  # needs Keras 2, chosen by the import above

        keras.utils.set_random_seed(seed)

        class Tutorial(tfrs.Model):
            def __init__(self) -> None:
                super().__init__()
                self.user = keras.layers.Embedding(users + 1, DIMENSION)
                self.item = keras.layers.Embedding(catalogue, DIMENSION)
                self.task = tfrs.tasks.Retrieval()

            def compute_loss(self, features: Any, training: bool = False) -> Any:
                return self.task(self.user(features[0]), self.item(features[1]), compute_metrics=False)

        pairs = (events.users[events.positive] + 1, events.items[events.positive])
        data = tf.data.Dataset.from_tensor_slices(pairs).shuffle(SHUFFLE, seed=seed).batch(BATCH_SIZE)
        model = Tutorial()
        model.compile(optimizer=keras.optimizers.Adagrad(LEARNING_RATE))
        model.fit(data, epochs=EPOCHS, verbose=0)
        learned = np.zeros(users, bool)
        learned[pairs[0] - 1] = True
        return cls(model.user.embeddings.numpy(), model.item.embeddings.numpy(), learned)

    def advance(self, time: int) -> None:
        """Nothing changes with time."""

    def scores(self, queries: Queries, first: int, last: int) -> np.ndarray:
        """See `Recommender.scores`."""
        users = queries.users[first:last]
        return self.users[np.where(self.learned[users], users + 1, 0)] @ self.items.T
