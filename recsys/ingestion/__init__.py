"""The Beam pipeline: read, validate, build vocabularies, encode, split, write. Elements are Arrow record batches."""
