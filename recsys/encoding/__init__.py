"""Raw values to ids and back, histories and point-in-time features; no TensorFlow.

The one implementation that ingestion, streaming and serving share.
"""
