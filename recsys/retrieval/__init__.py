"""The two-tower retrieval model and its training job."""

MODEL_KIND = "model"
MODEL_FORMAT = 1
