"""The pipeline: what the verbs of the command line do, as functions that return plain values."""

from millifit.pipeline.deploy import compile_model, compress, verify
from millifit.pipeline.device import predict
from millifit.pipeline.fit import fit, search
from millifit.pipeline.profiling import profile

__all__ = ["compile_model", "compress", "fit", "predict", "profile", "search", "verify"]
