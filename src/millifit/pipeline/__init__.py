"""The pipeline: what the verbs of the command line do, as functions that return plain values."""

from millifit.pipeline.architectures import predict_architectures
from millifit.pipeline.compiling import compile_model
from millifit.pipeline.compressing import compress
from millifit.pipeline.fit import fit, search
from millifit.pipeline.learning import learn
from millifit.pipeline.learning_architectures import learn_architectures
from millifit.pipeline.profiling import profile
from millifit.pipeline.running import run
from millifit.pipeline.verifying import verify
from millifit.pipeline.waterfall import predict

__all__ = [
    "compile_model",
    "compress",
    "fit",
    "learn",
    "learn_architectures",
    "predict",
    "predict_architectures",
    "profile",
    "run",
    "search",
    "verify",
]
