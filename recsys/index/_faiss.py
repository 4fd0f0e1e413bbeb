"""FAISS as an untyped module: its bundled stubs do not know the Python wrappers that it puts around its classes."""

import importlib
from typing import Any

faiss: Any = importlib.import_module("faiss")
