"""The pipeline: what the verbs of the command line do, as functions that return plain values."""

from millifit.pipeline.fit import fit, search
from millifit.pipeline.verbs import compile_model, compress, predict, profile, verify

__all__ = ["compile_model", "compress", "fit", "predict", "profile", "search", "verify"]
