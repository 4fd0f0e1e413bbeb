"""The recommender platform that adapts while it serves.

Importing this package imports neither TensorFlow nor Beam: `recsys --help` and a server's start stay instant.
"""

__version__ = "0.1.0"
