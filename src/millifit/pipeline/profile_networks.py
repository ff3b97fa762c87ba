"""Whole networks in a profile: compiled, timed as they are deployed, and kept beside kernels."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from millifit.errors import BundleError, CompileError, MeasurementError
from millifit.pipeline.bundles import write_input
from millifit.pipeline.profile_pool import PoolNetwork
from millifit.profiler.network_measurement import NetworkMeasurement, network_measurement_key
from millifit.samples import Floats
from millifit.targets.bundle import write_bundle
from millifit.targets.program import Program
from millifit.targets.runner.environment import code_versions
from millifit.targets.runner.network_timing import Contender, NetworkTimer, NetworkTimingPolicy
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples

# Its own speed is asked for, not a ratio to another network's: fewer rounds are enough.
POLICY = NetworkTimingPolicy(turn_s=0.04, min_rounds=7, max_rounds=15, limit_s=3.0)

Build = Callable[[Path, Program, Target, Floats], None]


def build_bundle(path: Path, program: Program, target: Target, x: Floats) -> None:
    """Write the bundle of a program that is timed and thrown away."""
    write_bundle(
        path, program=program, target=target, versions=code_versions(), golden_input=x, details={}
    )


def network_key(network: PoolNetwork, target: Target) -> str:
    """The key that the measurement of a network has, or would have."""
    return network_measurement_key(
        tuple(kernel for kernel, _ in network.items),
        batch=1,
        target_key=target.key,
        versions=code_versions(),
        policy=POLICY,
    )


def measure_network(
    network: PoolNetwork,
    *,
    target: Target,
    timer: NetworkTimer,
    environment: Mapping[str, str],
    section: int,
    seed: int,
    broken: Failed | None = None,
    build: Build = build_bundle,
    now: Callable[[], float] = time.time,
) -> NetworkMeasurement:
    """Compile and time a network; that it cannot be is a result, too.

    `broken` says that a kernel of it does not run: it could take this process with it.
    """
    return NetworkMeasurement(
        name=network.name,
        space=network.space,
        architecture=network.architecture,
        calls=tuple(kernel for kernel, _ in network.items),
        kernel_policy=network.policy,
        target_key=target.key,
        versions=code_versions(),
        policy=POLICY,
        environment=environment,
        outcome=broken or _timed(network, target, timer, seed, build),
        section=section,
        taken_at_s=now(),
    )


def _timed(
    network: PoolNetwork, target: Target, timer: NetworkTimer, seed: int, build: Build
) -> Samples | Failed:
    program = network.program()
    shape = program.types[program.inputs[0]].shape
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="millifit-profile-") as folder:
        try:
            build(Path(folder) / "bundle", program, target, x)
            given = write_input(Path(folder) / "input.npy", x)
            contender = Contender(
                kind="bundle", path=Path(folder) / "bundle", input_path=given,
                threads=target.threads,
            )  # fmt: skip
            found = timer.time_networks(
                {network.name: contender}, policy=POLICY, on_round=lambda _: None
            )
        except (BundleError, CompileError, MeasurementError) as error:
            return Failed(reason=str(error)[:500])
    return found[network.name].round_medians
