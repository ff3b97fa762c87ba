"""What a network answers, through ONNX Runtime, and how good the answers are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError, ModelError
from millifit.targets.importer.onnx_file import to_onnx
from millifit.targets.network import Network, Node

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_CHUNK_BYTES = 64 * 2**20
_MAX_CHUNK = 64
_LARGEST_TENSOR_BYTES = 256 * 2**20
_MOST_SAMPLES = 256

# Operators that treat the samples of a batch apart whatever their attributes are.
_PER_SAMPLE = (
    *("AveragePool", "Cast", "Clip", "Conv", "DequantizeLinear", "Dropout", "Elu"),
    *("GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"),
    *("MaxPool", "Pad", "QuantizeLinear", "Relu", "Sigmoid", "Tanh"),
)


def outputs(network: Network, x: Floats, *, threads: int = 1, optimized: bool = True) -> Floats:
    """The network's first output for every sample of `x`.

    ``x: [N, *sample]`` gives ``[N, ...]``, e.g. logits ``[N, classes]``. A network with a fixed
    batch is run on larger batches where its operators allow it, else batch by batch. ModelError
    where the network fails or answers NaN; DataError where `x` does not fit the input. Without
    `optimized` every operator runs as it stands in the graph, in the same precision.
    """
    first = network.outputs[0]
    chunks = activations(network, x, (first,), threads=threads, optimized=optimized)
    answers = [chunk[first] for chunk in chunks]
    joined = np.concatenate(answers).astype(np.float32, copy=False)
    if np.isnan(joined).any():
        raise ModelError(
            f"output '{first}' of '{network.name}' is not a number for some samples; look for an "
            "overflow or a division by zero in the model, or for NaN in the data"
        )
    return joined


def activations(
    network: Network,
    x: Floats,
    tensors: Sequence[str],
    *,
    threads: int = 1,
    optimized: bool = True,
) -> Iterator[dict[str, Floats]]:
    """The named tensors, for one chunk of the samples of `x` after the other.

    Each array starts with the samples' axis; the chunks together hold all N samples in order.
    """
    source = _only_input(network, x)
    static_batch = network.types[source].shape[0]
    symbolic = keeps_batch(network)
    session = _session(
        _with_free_batch(network) if symbolic else network, tensors, symbolic, threads, optimized
    )
    step = _chunk(network, tensors) if symbolic else static_batch
    made = [name for name in tensors if name != source]
    for start in range(0, len(x), step):
        chunk = np.ascontiguousarray(x[start : start + step], dtype=network.types[source].dtype)
        missing = 0 if symbolic else step - len(chunk)
        fed = np.concatenate([chunk, np.repeat(chunk[-1:], missing, axis=0)]) if missing else chunk
        try:
            answers = session.run(made, {source: fed}) if made else []
        except Exception as error:  # ONNX Runtime raises a dozen types of its own here
            raise ModelError(f"ONNX Runtime cannot run '{network.name}': {error}") from error
        found = {source: fed, **dict(zip(made, answers, strict=True))}
        yield {name: found[name][: len(chunk)] for name in tensors}


def accuracy(logits: Floats, y: Labels) -> float:
    """Fraction of samples whose largest logit is the label's: ``[N, classes]`` and ``[N]``."""
    _check_labels(logits, y)
    return float(np.mean(logits.argmax(axis=1) == y))


def cross_entropy(logits: Floats, y: Labels) -> float:
    """Mean of -log p(label) in nats; logits ``[N, classes]``, y ``[N]``."""
    _check_labels(logits, y)
    return float(-np.mean(_log_probabilities(logits)[np.arange(len(y)), y]))


def divergence(reference: Floats, logits: Floats) -> float:
    """Mean Kullback-Leibler divergence of the two networks' class probabilities, in nats.

    0 where they agree, needs no labels, and moves before a single answer flips: the loss by which
    choices are compared. Axis 1 holds the classes; outputs that already are probabilities are
    taken as such.
    """
    if reference.shape != logits.shape:
        raise DataError(f"outputs {logits.shape} cannot be compared with {reference.shape}")
    p, q = _log_probabilities(reference), _log_probabilities(logits)
    return max(0.0, float(np.mean(np.sum(np.exp(p) * (p - q), axis=1))))


def samples_at_once(network: Network) -> int:
    """Samples whose largest activation fits into memory at once, at most 256."""
    sample_bytes = max(
        kind.bytes // kind.shape[0]
        for name, kind in network.types.items()
        if name not in network.constants and kind.shape
    )
    return int(np.clip(_LARGEST_TENSOR_BYTES // max(sample_bytes, 1), 1, _MOST_SAMPLES))


def keeps_batch(network: Network) -> bool:
    """Whether the network treats the samples of a batch apart, so that any batch size will do."""
    batch = network.types[network.inputs[0]].shape[0]
    fixed = set(network.constants)
    for node in network.nodes:
        if node.op in ("Cast", "DequantizeLinear") and node.inputs[0] in fixed:
            fixed.update(node.outputs)
            continue
        tensors = [t for t in (*node.inputs, *node.outputs) if t and t not in fixed]
        if any(network.types[t].shape[:1] != (batch,) for t in tensors):
            return False
        if not _per_sample(network, node):
            return False
    return True


def _per_sample(network: Network, node: Node) -> bool:
    rank = len(network.types[node.inputs[0]].shape)
    match node.op:
        case "Add" | "Div" | "Mul" | "Sub":
            shapes = [network.constants[t].shape for t in node.inputs if t in network.constants]
            return all(len(shape) < rank or shape[0] == 1 for shape in shapes)
        case op if op in _PER_SAMPLE:
            return True
        case "Gemm":
            return not node.attributes.get("transA", 0)
        case "MatMul":
            return node.inputs[1] in network.constants
        case "Flatten":
            return node.attributes.get("axis", 1) == 1
        case "Concat":
            return int(str(node.attributes["axis"])) % rank != 0
        case "Softmax" | "LogSoftmax":
            return int(str(node.attributes.get("axis", -1))) % rank != 0
        case "Transpose":
            perm = node.attributes.get("perm")
            return isinstance(perm, tuple) and perm[0] == 0
        case "Reshape":
            return node.inputs[1] in network.constants and not node.attributes.get("allowzero", 0)
        case "ReduceMean" | "Squeeze" | "Unsqueeze":
            axes = _axes(network, node)
            return bool(axes) and all(axis % rank != 0 for axis in axes)
        case _:
            return False


def _axes(network: Network, node: Node) -> tuple[int, ...]:
    if len(node.inputs) > 1 and node.inputs[1] in network.constants:
        return tuple(int(a) for a in network.constants[node.inputs[1]].reshape(-1))
    axes = node.attributes.get("axes", ())
    return tuple(int(a) for a in axes) if isinstance(axes, tuple) else ()


def _with_free_batch(network: Network) -> Network:
    """The same network with the fixed batch in its Reshape nodes replaced by "as the input"."""
    constants = dict(network.constants)
    nodes = []
    for node in network.nodes:
        if node.op == "Reshape":
            shape = np.array(constants[node.inputs[1]], dtype=np.int64)
            shape[0] = 0
            free = f"{node.name}/free_batch_shape"
            constants[free] = shape
            nodes.append(
                Node(
                    name=node.name,
                    op="Reshape",
                    inputs=(node.inputs[0], free),
                    outputs=node.outputs,
                    attributes=node.attributes,
                )
            )
        else:
            nodes.append(node)
    return network.replace(nodes=tuple(nodes), constants=constants)


def _session(
    network: Network, tensors: Sequence[str], symbolic: bool, threads: int, optimized: bool
) -> Any:
    import onnx
    import onnxruntime

    model = to_onnx(network)
    graph = model.graph
    del graph.value_info[:]
    present = {output.name for output in graph.output}
    for name in dict.fromkeys(tensors):
        if name not in present and name not in network.inputs:
            graph.output.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
    if symbolic:
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.shape.dim:
                value.type.tensor_type.shape.dim[0].dim_param = "N"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Without VNNI the default u8 x s8 kernels saturate in 16 bits; an oracle must not.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime raises a dozen types of its own here
        raise ModelError(f"ONNX Runtime cannot load '{network.name}': {error}") from error


def _chunk(network: Network, tensors: Sequence[str]) -> int:
    batch = network.types[network.inputs[0]].shape[0]
    sizes = [t.bytes for name, t in network.types.items() if name not in network.constants]
    kept = sum(network.types[name].bytes for name in tensors)
    return int(np.clip(_CHUNK_BYTES * batch // max(max(sizes), kept, 1), 1, _MAX_CHUNK))


def _only_input(network: Network, x: Floats) -> str:
    if len(network.inputs) != 1:
        raise ModelError(
            f"'{network.name}' has the inputs {', '.join(network.inputs)}; export it with one input"
        )
    source = network.inputs[0]
    sample = network.types[source].shape[1:]
    if x.shape[1:] != sample or not len(x):
        raise DataError(
            f"data {x.shape} does not fit input '{source}' of '{network.name}', which takes "
            f"[N, {', '.join(map(str, sample))}]; check the shape and the preprocessing"
        )
    return source


def _check_labels(logits: Floats, y: Labels) -> None:
    if logits.ndim != 2 or y.shape != logits.shape[:1]:
        raise DataError(f"logits {logits.shape} need labels [{len(logits)}], got {y.shape}")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]:
        raise DataError(
            f"labels {int(y.min())}..{int(y.max())} do not fit {logits.shape[1]} classes; "
            "check that the labels count from 0 in the model's order"
        )


def _log_probabilities(answers: Floats) -> npt.NDArray[np.float64]:
    values = answers.astype(np.float64)
    sums = values.sum(axis=1)
    if values.min(initial=math.inf) >= 0 and np.allclose(sums, 1, atol=1e-3):
        return np.log(np.maximum(values, 1e-12))
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
