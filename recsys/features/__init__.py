"""Ids to vectors in TensorFlow: lookup, embedding, pooling, standardised numbers; shared by towers and ranker."""
