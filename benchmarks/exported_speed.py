"""One denoiser step in other runtimes: dense, structured 30 %, and half zeros, by ONNX Runtime and
OpenVINO beside torch.

    pip install onnx onnxscript onnxruntime openvino
    python -m benchmarks.exported_speed [--blocks 4] [--rounds 7]

The model is a StableDiffusion3 transformer of random weights, width 768, batch 2 (guidance), 256
image and 333 text tokens, float32, one thread. Structured keeps 8 of 12 heads of every attention
and 2152 of 3072 neurons of every FFN; zeros are half of the weights of the same layers. Every round
runs all models of a runtime once; the figure is the median over rounds of the ratio to dense within
a round, in CPU time of the process. results/exported-speed.json stores the rows.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from obsdiff.models.discovery import find_blocks
from obsdiff.models.layout import shrink_to_
from obsdiff.models.linear_view import layer_at, layer_shapes

from .conditions import RESULTS, conditions
from .speed.models import random_sd3

INPUTS = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")
HEADS, NEURONS = 8, 2152  # that are left of 12 and of 3072
SPARSE = {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 0.4}  # of OpenVINO, for layers with more zeros
Call = Callable[[], Tensor]


class Step(nn.Module):
    """A denoiser step with its inputs by position and a tensor as output."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, text: Tensor, pooled: Tensor, times: Tensor) -> Tensor:
        """Return what the denoiser predicts."""
        given = dict(zip(INPUTS, (latents, text, pooled, times), strict=True))
        return self.model(**given, return_dict=False)[0]


def main() -> None:
    """Export every model, time all of them in each runtime, and store the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models, inputs = models_of(args.blocks)
    calls: dict[str, dict[str, Call]] = {
        "torch": {name: torch_call(model, inputs) for name, model in models.items()}
    }
    with tempfile.TemporaryDirectory() as folder:
        files = {name: exported(model, inputs, Path(folder)) for name, model in models.items()}
        values = [value.numpy() for value in inputs]
        for runtime, open_file in (("ONNX Runtime", onnx_step), ("OpenVINO", openvino_step)):
            steps = {name: open_file(file) for name, file in files.items()}
            calls[runtime] = {name: partial(step, values) for name, step in steps.items()}
        sparse = openvino_step(files["zeros"], **SPARSE)
        calls["OpenVINO"]["zeros, sparse decompression"] = partial(sparse, values)
        rows = [row for runtime, found in calls.items() for row in timed(runtime, found, args)]
        for row in rows:
            name = row["model"].partition(",")[0]
            row["error"] = error_of(calls[row["runtime"]][row["model"]], calls["torch"][name])
            print(json.dumps(row), flush=True)
    found = {
        "conditions": conditions("benchmarks.exported_speed"),
        "runtimes": {name: version(name) for name in ("onnx", "onnxruntime", "openvino")},
        "settings": vars(args),
        "rows": rows,
    }
    text = json.dumps(found, indent=1) + "\n"
    (RESULTS / "exported-speed.json").write_text(text, encoding="utf-8")


def models_of(blocks: int) -> tuple[dict[str, nn.Module], list[Tensor]]:
    """Return the models by name, and the inputs of a step."""
    dense = random_sd3(blocks, 12, 32).transformer.requires_grad_(False)
    structured, zeros = copy.deepcopy(dense), copy.deepcopy(dense)
    found = find_blocks(layer_shapes(dense))
    left = {"heads": HEADS, "neurons": NEURONS}
    groups = [group for block in found for group in block.groups]
    shrink_to_(structured, {group.owner: {group.kind: left[group.kind]} for group in groups})
    for layer in {name for block in found for name in block.layers}:
        weight = layer_at(zeros, layer).weight
        weight.data[torch.rand_like(weight) < 0.5] = 0.0
    inputs = [
        torch.randn(2, 16, 32, 32),
        torch.randn(2, 333, 1024),
        torch.randn(2, 512),
        torch.tensor([500.0, 500.0]),
    ]
    models = {"dense": dense, "structured": structured, "zeros": zeros}
    return {name: Step(model).eval() for name, model in models.items()}, inputs


def exported(model: nn.Module, inputs: list[Tensor], folder: Path) -> Path:
    """Write a model as ONNX, and return the file."""
    file = folder / f"{len(list(folder.iterdir()))}.onnx"
    names = ["latents", "text", "pooled", "times"]
    torch.onnx.export(model, tuple(inputs), file, input_names=names, dynamo=True, verbose=False)
    return file


def torch_call(model: nn.Module, inputs: list[Tensor]) -> Call:
    """Return a call of a model in torch."""

    def call() -> Tensor:
        with torch.no_grad():
            found: Tensor = model(*inputs)
        return found

    return call


def onnx_step(file: Path) -> Callable[[list[Any]], Tensor]:
    """Open a file in ONNX Runtime; return a call of it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def call(values: list[Any]) -> Tensor:
        return torch.from_numpy(session.run(None, dict(zip(names, values, strict=True)))[0])

    return call


def openvino_step(file: Path, **more: Any) -> Callable[[list[Any]], Tensor]:
    """Open a file in OpenVINO; float32, since it would choose bfloat16 by itself."""
    import openvino

    core = openvino.Core()
    config = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"} | more
    compiled = core.compile_model(core.read_model(file), "CPU", config)
    return lambda values: torch.from_numpy(compiled(values)[0].copy())


def timed(runtime: str, calls: dict[str, Call], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the row of each model of a runtime."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for name in calls:
        calls[name]()
    for i in range(args.rounds):
        for name in list(calls)[:: 1 if i % 2 == 0 else -1]:
            began = time.process_time()
            calls[name]()
            seconds[name].append(time.process_time() - began)
    rows = []
    for name, found in seconds.items():
        ratios = [mine / dense for mine, dense in zip(found, seconds["dense"], strict=True)]
        rows.append(
            {
                "runtime": runtime,
                "model": name,
                "seconds": statistics.median(found),
                "of_dense": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
            }
        )
    return rows


def error_of(call: Call, reference: Call) -> float:
    """Return the largest difference of two outputs, by the largest value."""
    found, wanted = call(), reference()
    return float((found - wanted).abs().max() / wanted.abs().max())


if __name__ == "__main__":
    main()
