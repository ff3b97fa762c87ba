"""What a profile is made for: a model, the models of a folder, or a search space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from millifit.errors import MillifitError, ModelError, UsageError
from millifit.models import load_model
from millifit.pipeline.device import programs_of
from millifit.pipeline.profile_pool import PoolNetwork, for_a_while, of_programs, of_space
from millifit.progress import Progress
from millifit.search.space import SearchSpace
from millifit.targets.kernel import Choice, Kernel
from millifit.targets.network import Network
from millifit.targets.program import Program
from millifit.targets.target import Precision, Target

Shape = tuple[int, ...] | None

_POOL_SHARE = 0.1  # of the time goes into drawing networks of a space
_POOL_S = 60.0  # or so many seconds, where there is no time limit
_FRESH = 5  # every fifth network is not for the pool, but for saying how much is covered
_FEWEST_NETWORKS, _MOST_NETWORKS = 10, 400
_MOST_MEASURED = 30  # whole networks


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSubject:
    """What is profiled: networks for the pool, for coverage, and to be measured as a whole."""

    name: str
    pool: Sequence[PoolNetwork]
    fresh: Sequence[PoolNetwork]
    whole: Sequence[PoolNetwork]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledModel:
    """A model that is profiled, in every precision."""

    network: Network
    programs: Mapping[str, Program]


def load_models(
    spec: str | None,
    input_shape: Shape,
    target: Target,
    seed: int,
    precisions: tuple[Precision, ...] | None,
    progress: Progress,
) -> tuple[list[ProfiledModel], list[dict[str, str]]]:
    """The model, or all of a folder that can be read, and what cannot be and why."""
    if spec is None:
        return [], []

    def made(path: str) -> ProfiledModel:
        network = load_model(path, input_shape=input_shape).network
        return ProfiledModel(
            network=network, programs=programs_of(network, target, seed, precisions=precisions)
        )

    if not Path(spec).is_dir():
        return [made(spec)], []
    files = sorted(Path(spec).glob("*.onnx"))
    if not files:
        raise UsageError(f"folder '{spec}' has no .onnx file. Name a model or a folder of models.")
    models, skipped = [], []
    for file in files:
        try:
            models.append(made(str(file)))
        except MillifitError as error:
            skipped.append({"model": str(file), "reason": str(error)})
            progress.note(f"left out: {error}")
    if not models:
        raise ModelError(f"no model in folder '{spec}' can be used: {skipped[0]['reason']}")
    return models, skipped


def subject_of_space(
    space: SearchSpace,
    *,
    target: Target,
    choices: Mapping[Kernel, Choice],
    limit_s: float | None,
    seed: int,
    clock: Callable[[], float],
) -> ProfileSubject:
    """Random networks of a space, as many as a tenth of the time allows.

    Those that coverage is said of are also the first to be measured.
    """
    networks = for_a_while(
        of_space(space, target=target, choices=choices, seed=seed),
        fewest=_FEWEST_NETWORKS,
        most=_MOST_NETWORKS,
        seconds=_POOL_S if limit_s is None else _POOL_SHARE * limit_s,
        clock=clock,
    )
    fresh = networks[::_FRESH]
    pool = [network for number, network in enumerate(networks) if number % _FRESH]
    return ProfileSubject(
        name=space.name, pool=pool, fresh=fresh, whole=(fresh + pool)[:_MOST_MEASURED]
    )


def subject_of_models(
    spec: str, models: Sequence[ProfiledModel], target: Target, choices: Mapping[Kernel, Choice]
) -> ProfileSubject:
    """Models, every one in every precision."""
    networks = [
        network
        for model in models
        for network in of_programs(model.network, model.programs, target=target, choices=choices)
    ]
    name = models[0].network.name if len(models) == 1 else spec
    return ProfileSubject(name=name, pool=networks, fresh=networks, whole=networks)
