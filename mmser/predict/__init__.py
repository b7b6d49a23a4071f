"""A trained head on new recordings, by way of the encoders, layers, pooling and aligner that it was trained on."""

from mmser.predict.recordings import SUFFIXES, read_texts, recordings, recordings_and_unfit
from mmser.predict.run import Predictions, predict, predict_manifest

__all__ = ["SUFFIXES", "Predictions", "predict", "predict_manifest", "read_texts", "recordings", "recordings_and_unfit"]
