"""Options that several verbs share, so that they mean the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="An ONNX file, or module:function for a torch model."),
]
OptionalModel = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="An ONNX file, or module:function for a torch model."),
]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="YAML file of settings; options override it.")
]
Demo = Annotated[
    bool | None,
    typer.Option("--demo", help="Train a small network on handwritten digits and fit that."),
]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="FILE|FOLDER|module:function", help="Images and labels."),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="FILE|FOLDER",
        help="Samples that show the ranges of values; part of the data unless given.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(metavar="A[,B,C]", help="x = (raw - mean) / std; one value or one per channel."),
]
Std = Annotated[str | None, typer.Option(metavar="A[,B,C]", help="See --mean.")]
InputShape = Annotated[
    str | None,
    typer.Option(metavar="1x3x224x224", help="For models whose file leaves the shape open."),
]
TargetName = Annotated[
    str | None, typer.Option("--target", help="A name of 'millifit targets list'; local is here.")
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="HOST:PORT[/KEY]",
        help="Where 'millifit device serve' runs on the target, or a tracker and a key of its own.",
    ),
]
DeviceToken = Annotated[
    str | None,
    typer.Option("--device-token-file", metavar="FILE", help="The token of that device."),
]
DeviceCa = Annotated[
    str | None,
    typer.Option("--device-ca", metavar="FILE", help="Who signed its certificate: speak TLS."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads that the network runs on.")
]
BudgetText = Annotated[
    str | None,
    typer.Option("--budget", metavar="60%|8ms", help="Share of the baseline, or a latency."),
]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        "--max-drop", metavar="POINTS", help="Accuracy that may be lost, in points; or 'none'."
    ),
]
RunFolder = Annotated[
    str | None, typer.Option("--run", metavar="FOLDER", help="Where the run writes and resumes.")
]
Store = Annotated[
    str | None,
    typer.Option("--store", metavar="FILE", help="Measurements to reuse and to add to."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="The same seed, the same result.")]
Precisions = Annotated[
    str | None,
    typer.Option(
        "--precisions",
        metavar="A[,B...]",
        help="What layers may be besides fp32: int8, w7a8, fp16, bf16, w8, w4.",
    ),
]
Prune = Annotated[
    bool | None,
    typer.Option("--prune/--no-prune", help="Remove channels where there is training data."),
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", min=0, help="Epochs of fine-tuning after pruning.")
]
Trials = Annotated[
    int | None, typer.Option("--trials", min=1, help="Most networks to compile and measure.")
]
Tune = Annotated[
    float | None,
    typer.Option(
        "--tune",
        metavar="SECONDS",
        min=0,
        help="Try other tiles than the rules' on this machine; what wins is kept and used.",
    ),
]
PublicKey = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        metavar="PEM",
        help="Refuse what the owner of this Ed25519 key has not signed.",
    ),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")
]
