"""What every single decision loses, on held-out data."""

from __future__ import annotations

from collections.abc import Callable

import torch

from millifit.compress.apply import Training, prune_and_train, quantize_well, rank_channels
from millifit.compress.evaluate import divergence, outputs
from millifit.compress.plan import Plan
from millifit.compress.prune.groups import ChannelGroup, channel_groups
from millifit.compress.prune.importance import Scores
from millifit.compress.prune.pruner import prune, widths_for
from millifit.compress.quantize.quantizer import quantizable, quantize
from millifit.compress.quantize.ranges import Range, choose_range
from millifit.compress.torch_network import TorchNetwork
from millifit.errors import UnsupportedOperator
from millifit.pipeline.precisions import offered, variant
from millifit.pipeline.workbench import Workbench, sample_input
from millifit.search.knapsack import Option
from millifit.search.plan_space import WIDTH, PlanSpace
from millifit.search.problem import few_widths, plan_space
from millifit.search.sensitivity import Sensitivities, changes, sensitivities
from millifit.targets.importer.onnx_file import read_network, write_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.network import Network
from millifit.targets.target import INTEGER, Precision

# Enough images to rank decisions; more only take longer.
_SAMPLES = 256
# Widths offered per group: a shape more is a kernel more to measure, in every neighbour's widths.
_WIDTHS = 4
_RECOVERY = "recovery"


def training_of(bench: Workbench) -> Training:
    """How trials are fine-tuned."""
    if bench.recipe.epochs is None:
        return Training()
    return Training(epochs=bench.recipe.epochs)


def find_choices(bench: Workbench) -> PlanSpace:
    """Precisions of every layer and, where there is training data, widths of every group."""
    variants = _variants(bench)
    groups: tuple[ChannelGroup, ...] = ()
    widths: dict[str, tuple[int, ...]] = {}
    if bench.recipe.prune and bench.dataset.train is not None and _trainable(bench):
        groups = channel_groups(bench.network)
        for group in groups:
            options = widths_for(group, step=bench.target.fp32_lanes)
            if len(options) > 1:
                widths[group.name] = few_widths(options, count=_WIDTHS)
    return plan_space(bench.network, bench.target, variants=variants, groups=groups, widths=widths)


def _trainable(bench: Workbench) -> bool:
    """Whether the network can be trained, which pruning needs; says why where it cannot."""
    try:
        list(TorchNetwork(bench.network).tensors(torch.from_numpy(sample_input(bench.dataset))))
    except UnsupportedOperator as error:
        bench.progress.note(f"channels are not pruned: {error}")
        return False
    return True


def _variants(bench: Workbench) -> dict[Precision, Network]:
    """The network with every layer in a precision that can be, for each one offered."""
    precisions = offered(bench.recipe.precisions, bench.target)
    found: dict[Precision, Network] = {}
    for precision in precisions[1:]:
        if precision == "int8":
            found[precision] = _quantized(bench)
        else:
            ranges = _ranges(bench) if precision in INTEGER else {}
            found[precision] = variant(bench.network, precision, ranges)
    return found


def _ranges(bench: Workbench) -> dict[str, Range]:
    histograms = bench.calibration.histograms
    return {tensor: choose_range(each, method="mse") for tensor, each in histograms.items()}


def _quantized(bench: Workbench) -> Network:
    """The whole network in int8 with corrected biases, kept in the run folder as int8.onnx."""
    path = bench.folder.path / "int8.onnx"
    if not path.exists():
        made, method = quantize_well(
            bench.calibration,
            quantizable(bench.network),
            progress=bench.progress,
        )
        write_network(made, path)
        bench.progress.note(f"activation ranges by {str(method).replace('_', '-')}")
    return simplify(read_network(path))


def find_losses(bench: Workbench, space: PlanSpace) -> Sensitivities:
    """The loss of every single change: divergence from the network's answers on held-out data.

    A width's loss is measured without fine-tuning and scaled by what fine-tuning recovers of a
    network pruned to its middle widths: measured once, since training every choice would take
    hours.
    """
    held_out = bench.dataset.search.x[:_SAMPLES]
    reference = outputs(bench.network, held_out, threads=bench.cores)
    probe = _Probe(bench)
    known: dict[str, float] = bench.folder.read("sensitivity.json") or {}

    def loss(network: Network) -> float:
        return divergence(reference, outputs(network, held_out, threads=bench.cores))

    def keep(key: str, value: float) -> None:
        known[key] = value
        bench.folder.write("sensitivity.json", known)

    tried = changes(space, widths={name: _probed(w) for name, w in space.widths.items()})
    found = sensitivities(
        space,
        tried,
        lambda plan: loss(probe.network(plan)),
        known=known,
        on_result=keep,
        progress=bench.progress,
    )
    if not space.widths:
        return found
    if _RECOVERY not in known:
        keep(_RECOVERY, _recovery(bench, space, probe, loss))
    return Sensitivities(
        base=found.base,
        increase={
            change: value * known[_RECOVERY] if change[0].startswith(WIDTH) else value
            for change, value in found.increase.items()
        },
    )


def _probed(widths: tuple[Option, ...] | tuple[int, ...]) -> tuple[int, ...]:
    """The middle and the narrowest width; the others are interpolated."""
    numbers = [int(width) for width in widths]
    return tuple(dict.fromkeys((numbers[len(numbers) // 2], numbers[-1])))


def _recovery(
    bench: Workbench, space: PlanSpace, probe: _Probe, loss: Callable[[Network], float]
) -> float:
    """The share of the loss that is left after fine-tuning, for all groups at middle width."""
    middle = {name: _probed(widths)[0] for name, widths in space.widths.items()}
    before = loss(probe.network(Plan(precisions={}, widths=middle)))
    trained = prune_and_train(
        bench.network, middle, dataset=bench.dataset, training=training_of(bench),
        seed=bench.recipe.seed, progress=bench.progress,
    )  # fmt: skip
    return min(1.0, loss(trained) / max(before, 1e-12))


class _Probe:
    """Makes the network of a single change, without training."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._importances: dict[str, Scores] | None = None
        self._ranges: dict[str, Range] | None = None

    def network(self, plan: Plan) -> Network:
        """The network with `plan` applied, weights otherwise as they are."""
        network = self._bench.network
        if plan.widths:
            if self._importances is None:
                self._importances = rank_channels(
                    network, self._bench.dataset, seed=self._bench.recipe.seed
                )
            return prune(
                network,
                plan.widths,
                importances=self._importances,
                samples=self._bench.dataset.calibration.x,
            )
        if any(precision in INTEGER for precision in plan.precisions.values()):
            if self._ranges is None:
                self._ranges = _ranges(self._bench)
            return quantize(network, plan.precisions, self._ranges)
        return quantize(network, plan.precisions, {})
