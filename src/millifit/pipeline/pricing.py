"""Prices: what every kernel of a network, or of a space of plans, costs on the target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from millifit.errors import MeasurementError
from millifit.latency_models.kernels.table import LatencyTable, fit_measured_table, price_of
from millifit.latency_models.prediction import Prediction
from millifit.profiler.measurement import Measurement
from millifit.profiler.store import Store
from millifit.profiler.sweep import measure, policy_for
from millifit.progress import Progress
from millifit.targets.kernel import Choice, Kernel
from millifit.targets.network import Network
from millifit.targets.program import Program, chosen
from millifit.targets.target import Target
from millifit.targets.timing import Failed, KernelTimer

_BY_RULE: Mapping[Kernel, Choice] = {}


class Prices:
    """Prices of kernels on one target: measured where asked for, predicted otherwise."""

    def __init__(
        self,
        *,
        target: Target,
        network_bytes: int,
        store: Store,
        timer: KernelTimer,
        progress: Progress,
        seed: int,
        choices: Mapping[Kernel, Choice] = _BY_RULE,
    ) -> None:
        """`choices` are those of tuned kernels: they are priced as they will run."""
        self._target = target
        self._policy = policy_for(target, network_bytes)
        self._store = store
        self._timer = timer
        self._progress = progress
        self._seed = seed
        self._choices = choices
        self._measured: dict[Kernel, Measurement] = {}
        self._table: LatencyTable | None = None

    def measure(self, kernels: Sequence[Kernel]) -> Mapping[Kernel, Measurement]:
        """Measure kernels, or find them in the store. Kernels that cost nothing are left out."""
        asked = dict.fromkeys(chosen(kernel, self._choices) for kernel in kernels)
        wanted = [k for k in asked if not is_free(k) and k not in self._measured]
        if wanted:
            self._measured |= measure(
                wanted,
                target=self._target,
                store=self._store,
                timer=self._timer,
                policy=self._policy,
                progress=self._progress,
                seed=self._seed,
            )
            self._table = None
        return self._measured

    def of(self, kernels: Sequence[Kernel]) -> list[Prediction | Failed]:
        """A price for each kernel, in order."""
        return self._priced().price([chosen(kernel, self._choices) for kernel in kernels])

    def seconds(self, kernel: Kernel) -> float:
        """A kernel's price; infinite where it does not run on the target."""
        if is_free(kernel):
            return 0.0
        price = self.of([kernel])[0]
        return float("inf") if isinstance(price, Failed) else price.median_s

    def sum_of(self, program: Program) -> float | None:
        """The sum of all calls' prices in seconds; None where a kernel does not run."""
        total = sum(self.seconds(call.kernel) for call in program.calls)
        return total if math.isfinite(total) else None

    def of_calls(self, program: Program) -> list[Prediction | Failed]:
        """A price for each call of a program that takes time, in order."""
        return self.of([call.kernel for call in program.calls if not is_free(call.kernel)])

    def rows(self, program: Program) -> list[dict[str, Any]]:
        """The program's calls and their prices, as result.json has them."""
        calls = [call for call in program.calls if not is_free(call.kernel)]
        rows = []
        for call, price in zip(calls, self.of_calls(program), strict=True):
            if isinstance(price, Failed):
                raise MeasurementError(
                    f"kernel '{call.kernel.op}' of node '{call.nodes[0]}' does not run on "
                    f"'{self._target.name}': {price.reason}. Leave its layer in fp32."
                )
            rows.append(
                {
                    "name": call.nodes[0],
                    "op": str(dict(call.kernel.attributes).get("operator", call.kernel.op)),
                    "precision": call.kernel.precision,
                    "output_dtype": call.kernel.output.dtype,
                    "shape": list(call.kernel.output.shape),
                    "seconds": price.median_s,
                    "low_s": price.low_s,
                    "high_s": price.high_s,
                    "origin": "measured" if price.origin == "measured" else "predicted",
                }
            )
        return rows

    def _priced(self) -> LatencyTable:
        if self._table is None:
            timed = {
                kernel: price
                for kernel, each in self._measured.items()
                if isinstance(price := price_of(each), Prediction)
            }
            lanes = self._target.fp32_lanes
            fit = partial(fit_measured_table, timed, vector_lanes=lanes, seed=self._seed)
            self._table = LatencyTable(
                self._measured, model=fit if timed else None, vector_lanes=lanes
            )
        return self._table


def is_free(kernel: Kernel) -> bool:
    """Whether a kernel is only another view of the same memory."""
    return kernel.op == "reshape"


def working_bytes(network: Network) -> int:
    """Bytes of weights and of the largest activations: what competes for the caches."""
    activations = [t.bytes for name, t in network.types.items() if name not in network.constants]
    return network.constant_bytes + 2 * max(activations, default=0)
