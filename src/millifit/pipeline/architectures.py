"""Latencies of whole networks that are known by their architecture's code alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from millifit.errors import DataError, UsageError
from millifit.latency_models.architectures.additive import AdditiveModel
from millifit.latency_models.architectures.cells import encode_cells
from millifit.latency_models.architectures.codes import encode_candidates, encode_transformer_codes
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.architectures.supernets import encode_supernets
from millifit.latency_models.archive import State, read_state
from millifit.latency_models.prediction import Floats, Predictions
from millifit.latency_models.transfer.adapt import TransferModel
from millifit.latency_models.transfer.cost_surface import CostSurface
from millifit.pipeline.workbench import plain_interval
from millifit.search.spaces import NAMES, find_space
from millifit.targets.runner.environment import code_versions

Encoder = Callable[[Sequence[str]], Encoded]

_KIND = "architectures"
_LEARN = "millifit profile learn --space SPACE --out FILE"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArchitectureModel:
    """Prices architectures of one space on one target. Made by `learn_architectures`.

    `sources` are the settings of other devices that the model was transferred from; none where it
    is the target's own. `versions` are those of the networks that were measured; `compiled_here`
    says that millifit generated their code, whose versions have to be the present ones.
    """

    space: str
    target_name: str
    target_key: str
    versions: str
    compiled_here: bool
    networks: int
    sources: tuple[str, ...]
    model: AdditiveModel | TransferModel[Encoded]

    def predict(self, codes: Sequence[str]) -> Predictions:
        """A prediction for each architecture; DataError naming a code that is none."""
        return self.model.predict(encoded_codes(self.space, codes))

    def to_state(self) -> State:
        """Plain arrays and JSON values; `from_state` is the inverse."""
        return State(
            kind=_KIND,
            facts={
                "space": self.space,
                "target": self.target_name,
                "target_key": self.target_key,
                "versions": self.versions,
                "compiled_here": self.compiled_here,
                "networks": self.networks,
                "sources": list(self.sources),
            },
            parts={"model": self.model.to_state()},
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The model that `to_state` described; DataError where it is none."""
        if state.kind != _KIND:
            raise DataError(f"a saved '{state.kind}' prices no architectures: make one by {_LEARN}")
        try:
            space = str(state.fact("space"))
            return cls(
                space=space,
                target_name=str(state.fact("target")),
                target_key=str(state.fact("target_key")),
                versions=str(state.fact("versions")),
                compiled_here=bool(state.fact("compiled_here")),
                networks=int(state.fact("networks")),
                sources=tuple(map(str, state.fact("sources"))),
                model=_model_from(state.part("model"), space),
            )
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(f"the saved model is damaged: {error}. Save it again.") from error


def predict_architectures(
    architectures: Sequence[str], *, latency_model: str, target: str | None = None
) -> dict[str, Any]:
    """Predict networks by their architectures' codes, with a file of `learn_architectures`.

    Raises UsageError for no architectures, no such file, or one of another target or other code;
    DataError for a code that is none of the file's space, with its place, and a file that is
    damaged or of another kind.
    """
    if not architectures:
        raise UsageError("there is no architecture to predict: name one with --architecture.")
    loaded = load_architecture_model(Path(latency_model), target)
    made = loaded.predict(architectures)
    return {
        "space": loaded.space,
        "target": loaded.target_name,
        "networks_measured": loaded.networks,
        "from": list(loaded.sources),
        "architectures": [
            {
                "architecture": code,
                "latency_s": plain_interval(each.median_s, each.low_s, each.high_s),
                "origin": each.origin,
                "extrapolated": each.extrapolated,
            }
            for code, each in zip(architectures, made, strict=True)
        ],
    }


def load_architecture_model(path: Path, target: str | None = None) -> ArchitectureModel:
    """The model in a file; see `predict_architectures` for what is refused."""
    if not path.is_file():
        raise UsageError(f"there is no file '{path}'. Make one: {_LEARN}")
    try:
        loaded = ArchitectureModel.from_state(read_state(path))
    except DataError as error:
        message = str(error)
        raise DataError(message if str(path) in message else f"'{path}': {message}") from error
    if target is not None and target not in (loaded.target_name, loaded.target_key):
        raise UsageError(
            f"'{path}' is of target '{loaded.target_name}', not of '{target}'. Name that target, "
            "or leave --target out."
        )
    if loaded.compiled_here and loaded.versions != code_versions():
        raise UsageError(
            f"'{path}' was learnt from networks of other code ({loaded.versions}; this is "
            f"{code_versions()}). Measure and learn again: millifit profile --space {loaded.space}"
        )
    return loaded


def encoder(space: str) -> Encoder:
    """What makes features of the codes of a space; UsageError for a space without one."""
    if space == "nasbench201":
        return encode_cells
    if space == "ofa":
        return encode_supernets
    if space.startswith("hat-"):
        return encode_transformer_codes
    if space in NAMES:
        return partial(encode_candidates, find_space(space).variables)
    raise UsageError(
        f"millifit cannot read the architectures of a space '{space}'. Choose one of: "
        f"{', '.join((*NAMES, 'nasbench201', 'ofa', 'hat-TASK'))}."
    )


def encoded_codes(space: str, codes: Sequence[str]) -> Encoded:
    """The features of some codes; DataError naming the first that is none, and its place."""
    encode = encoder(space)
    try:
        return encode(codes)
    except DataError:
        for place, code in enumerate(codes, start=1):
            try:
                encode([code])
            except DataError as error:
                raise DataError(f"architecture {place} of {len(codes)}: {error}") from error
        raise


def own_costs(space: str) -> Callable[[Encoded], Floats]:
    """The features that a new device may price otherwise than its relatives: few for cells."""
    if space == "nasbench201":
        return _counts
    return _all


def _counts(encoded: Encoded) -> Floats:
    return encoded.group("count")


def _all(encoded: Encoded) -> Floats:
    return encoded.x


def _model_from(state: State, space: str) -> AdditiveModel | TransferModel[Encoded]:
    if state.kind == "transfer":
        return TransferModel.from_state(
            state, features=own_costs(space), read_model=CostSurface.from_state
        )
    if state.kind == "additive":
        return AdditiveModel.from_state(state)
    raise DataError(f"a model of kind '{state.kind}' prices no architectures. Save it again.")
