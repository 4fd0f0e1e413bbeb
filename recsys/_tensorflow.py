"""The one place that imports TensorFlow: `from recsys._tensorflow import keras, tf`.

TensorFlow Recommenders needs Keras 2 (tf_keras), which TensorFlow must be told of before its first import. Import this
module only where TensorFlow is used (job modules, or inside a function): it takes seconds.
"""

import os
import sys

if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") != "1":
    raise ImportError("TensorFlow was imported before recsys._tensorflow, so Keras 2 cannot be chosen any more.")
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
import tf_keras as keras

tf.get_logger().setLevel("ERROR")

__all__ = ["keras", "tf"]
