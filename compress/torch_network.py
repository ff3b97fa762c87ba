"""A network as a PyTorch module: the same numbers, with gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from millifit.compress.torch_maps import split
from millifit.compress.torch_operators import compute
from millifit.errors import ModelError
from millifit.targets.network import Array, Network

_TRAINED_OPERATORS = ("Conv", "Gemm", "MatMul")


class TorchNetwork(nn.Module):
    """Interprets a network node by node; its float weights and biases are parameters.

    Batches of any size work where the network's operators allow it, whatever batch its types say.
    Constants of other operators (scales, shapes) are buffers and are not trained.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        if len(network.inputs) != 1:
            raise ModelError(f"'{network.name}' has {len(network.inputs)} inputs; one is supported")
        self._network = network
        # Constants' names contain dots, which PyTorch keeps for modules.
        self._keys: dict[str, str] = {}
        trained = {
            tensor
            for node in network.nodes
            if node.op in _TRAINED_OPERATORS
            for tensor in node.inputs[1:]
        }
        for place, (name, value) in enumerate(network.constants.items()):
            key = self._keys[name] = f"constant_{place}"
            tensor = _tensor(value)
            if name in trained and tensor.dtype == torch.float32:
                self.register_parameter(key, nn.Parameter(tensor))
            else:
                self.register_buffer(key, tensor)

    def constant(self, name: str) -> Tensor:
        """The parameter or buffer of a constant of the network."""
        found = getattr(self, self._keys[name])
        assert isinstance(found, Tensor)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The network's first output; ``x: [N, *sample]`` gives e.g. logits ``[N, classes]``."""
        wanted = self._network.outputs[0]
        found = x
        for name, value in self.tensors(x):
            if name == wanted:
                found = value
        return found

    def logits(self, x: Tensor) -> Tensor:
        """The first output as logits, also where the network ends in Softmax; ``[N, classes]``."""
        maker = self._network.producers()[self._network.outputs[0]]
        answers: Tensor = self(x)
        # The logarithm of probabilities is a valid set of logits for them.
        return torch.log(answers.clamp_min(1e-12)) if maker.op == "Softmax" else answers

    def tensors(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Every node's output in order; each is dropped after its last reader.

        Changing a tensor in place changes what the nodes after it read.
        """
        network = self._network
        last = {t: place for place, node in enumerate(network.nodes) for t in node.inputs}
        known = {network.inputs[0]: x}
        for place, node in enumerate(network.nodes):
            if len(node.outputs) != 1 and node.op != "Split":
                raise ModelError(f"node '{node.name}' ({node.op}) has several outputs")
            inputs = [
                None if not t else self.constant(t) if t in self._keys else known[t]
                for t in node.inputs
            ]
            if node.op == "Split":
                values = split(node, inputs[0], network.types)
            else:
                values = (compute(node, inputs, network.types, len(x)),)
            for made, value in zip(node.outputs, values, strict=True):
                known[made] = value
                yield made, value
            for tensor in node.inputs:
                if last.get(tensor) == place:
                    known.pop(tensor, None)

    def to_network(self) -> Network:
        """The network with the parameters as they are now."""
        constants = dict(self._network.constants)
        for name, key in self._keys.items():
            if key in self._parameters:
                constants[name] = self.constant(name).detach().numpy().copy()
        return self._network.replace(constants=constants)


def _tensor(value: Array) -> Tensor:
    """A copy of a constant; PyTorch reads neither bfloat16 nor int4 from NumPy."""
    match value.dtype.name:
        case "bfloat16":
            return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
        case "int4":
            return torch.from_numpy(value.astype(np.int8))
    return torch.from_numpy(np.array(value))
