"""Click prediction on gated features: backbones, OptFS, calibration and evaluation."""

RANKER_KIND = "ranker"
RANKER_FORMAT = 1
