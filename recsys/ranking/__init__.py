"""Click prediction on gated features: backbones, OptFS, calibration and evaluation."""
