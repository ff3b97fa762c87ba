"""More than one sample at a time: what throughput is compared at, on GPUs that have code for it.

Everything else here fits the latency of one inference. Kernels for processors and for OpenCL are
written, and their rules chosen, for one sample.
"""

from __future__ import annotations

from collections.abc import Sequence

from millifit.errors import ModelError
from millifit.targets.network import TensorType
from millifit.targets.program import Call
from millifit.targets.target import Target

# What is tested with several samples, and is what networks of convolutions consist of.
_OPERATORS = {
    *("conv2d", "depthwise_conv2d", "dense", "max_pool", "avg_pool", "global_avg_pool"),
    *("to_channels_last", "to_channels_first", "reshape", "cast", "quantize", "dequantize"),
    *("relu", "relu6", "clip", "hard_swish", "hard_sigmoid", "sigmoid"),
}
_SAME_SHAPES = {"add", "mul"}


def check_batch(name: str, kind: TensorType, target: Target) -> None:
    """Raise ModelError where an input of maps has more samples than the target has code for."""
    takes_batches = target.gpu is not None and target.gpu.api == "cuda"
    if len(kind.shape) == 4 and kind.shape[0] != 1 and not takes_batches:
        raise ModelError(
            f"the model's input '{name}' has batch {kind.shape[0]}; millifit fits the latency "
            "of one inference: export the model with batch 1, or pass --input-shape 1,..."
        )


def check_batched_calls(inputs: Sequence[TensorType], calls: Sequence[Call]) -> None:
    """Raise ModelError naming the first node that has no code for several samples, if any have."""
    if all(len(kind.shape) != 4 or kind.shape[0] == 1 for kind in inputs):
        return
    for call in calls:
        shapes = {kind.shape for kind in call.kernel.inputs}
        alike = call.kernel.op in _SAME_SHAPES and len(shapes) == 1
        if call.kernel.op not in _OPERATORS and not alike:
            raise ModelError(
                f"node '{call.nodes[0] if call.nodes else call.output}' ({call.kernel.op}) has "
                "code for one sample at a time: compile the model with --input-shape 1,..."
            )
