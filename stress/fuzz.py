"""Mutated input for everything that obsdiff reads: a clean run, or one clear line and exit code 2
(1 where `verify` finds a difference).

    python -m stress.fuzz [--inputs 10000]

Checked: no traceback, no run of 10 seconds, no file outside the output, no unpickling. Input is
made by hypothesis: JSON files with values of other kinds and sizes in the place of their own, or
with bytes changed; headers of safetensors files; prompts; patterns; flags. The input is a tiny
pruned pipeline and a run with it.
"""

import argparse
import contextlib
import copy
import io
import json
import pickle
import shutil
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import obsdiff
from obsdiff import PruningConfig, UserError
from obsdiff.cli.main import main as obsdiff_main
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline

SLOW = 10.0  # seconds of CPU time: other work on the machine does not count
PROMPTS = ["red apple", "green pear", "blue bird"]
QUICK = {"num_inference_steps": 2, "height": 16, "width": 16}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
FLAGS = (
    "--method", "--pattern", "--sparsity", "--num-prompts", "--num-inference-steps",
    "--guidance-scale", "--height", "--width", "--batch-size", "--seed", "--step-weighting",
    "--step-weight-min", "--step-weight-max", "--calibration", "--packages", "--memory-budget-gib",
    "--blocks", "--include", "--exclude", "--target", "--damping", "--round-to",
    "--keep-first-last", "--no-compensation", "--component", "--dtype", "--device",
    "--offload-device", "--prompts", "--json", "--config", "--paper-count", "--nonsense",
    "--preset", "--refine", "--allocation", "--allocation-prompts", "--target-latency",
    "--variant", "--quiet", "--log-file", "--resume", "--permute", "--tokens-per-column",
    "--store",
)  # fmt: skip

WORDS = (
    "../../x", "/etc/passwd", "a/../b", "\x00", "nan", "1e999", "-1", "0", "0.5", "2:4", "4:4",
    "0:0", "8:2", "structured", "best", "sensitivity", "None", "transformer", "os.system",
    "x" * 500,
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(WORDS))
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 1e308, 1e-308]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


def places(value: Any, above: tuple = ()) -> Iterator[tuple]:
    """The paths of all values inside a JSON value."""
    for key, inner in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:4])
        if isinstance(value, list)
        else ()
    ):
        yield (*above, key)
        yield from places(inner, (*above, key))


@st.composite
def mutated_json(draw: Callable, text: str) -> bytes:
    """A JSON file with some of its values replaced, removed or doubled under another name; or with
    some of its bytes changed."""
    if draw(st.integers(0, 3)) == 0:
        return draw(mutated_bytes(text.encode()))
    value = copy.deepcopy(json.loads(text))
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(value))
        if not paths:
            break
        *above, key = draw(st.sampled_from(paths))
        inside = value
        for step in above:
            inside = inside[step]
        what = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if what == "remove":
            del inside[key]
        elif what == "add" and isinstance(inside, dict):
            inside[draw(TEXTS)] = inside[key]
        else:
            inside[key] = draw(VALUES)
    return json.dumps(value).encode("utf-8", "surrogatepass")


@st.composite
def mutated_bytes(draw: Callable, content: bytes) -> bytes:
    """Cut off, with bytes changed, or with others put in."""
    if not content:
        return draw(st.binary(max_size=20))
    what, place = (
        draw(st.sampled_from(["cut", "change", "insert", "other"])),
        draw(st.integers(0, len(content) - 1)),
    )
    some = draw(st.binary(min_size=1, max_size=8))
    return {
        "cut": content[:place],
        "change": content[:place] + some + content[place + len(some) :],
        "insert": content[:place] + some + content[place:],
        "other": some,
    }[what]


@st.composite
def mutated_header(draw: Callable, content: bytes) -> bytes:
    """A safetensors file with a mutated header; the length field may disagree."""
    (size,) = struct.unpack("<Q", content[:8])
    header = draw(mutated_json(content[8 : 8 + size].decode()))
    length = draw(st.sampled_from([len(header), len(header), len(header), 0, 2**40, size]))
    return struct.pack("<Q", length) + header + content[8 + size :]


class Ground:
    """A pruned pipeline and a run with it, mutated one file at a time, and counts of the
    outcomes."""

    def __init__(self, folder: Path):
        from tests.conftest import sd3

        self.folder, self.counts = folder, Counter()
        self.model = self.pruned(folder / "model", pattern="structured", sparsity=0.5, round_to=1)
        self.packed = self.pruned(folder / "packed", pattern="2:4", store="bitmask")
        self.run = folder / "run"
        (folder / "prompts.txt").write_text("\n".join(PROMPTS))
        sd3().save_pretrained(folder / "dense")
        arguments = [
            "evaluate",
            self.model,
            "--against",
            folder / "dense",
            "--output",
            self.run,
            "--prompts",
            folder / "prompts.txt",
            "--num-prompts",
            2,
        ]
        code = self.main(
            *arguments, "--rounds", 0, "--num-inference-steps", 2, "--height", 16, "--width", 16
        )[0]
        assert code == 0, code
        self.here = self.listing()

    def pruned(self, folder: Path, **given_settings: Any) -> Path:
        """Write a tiny pruned pipeline, and return its folder."""
        from tests.conftest import sd3

        pipe = sd3()
        report = obsdiff.prune_(pipe, PROMPTS[:2], PruningConfig(**given_settings, **QUICK))
        return obsdiff.save_pruned(pipe, folder, report)

    def listing(self) -> set[Path]:
        return {
            path
            for path in self.folder.rglob("*")
            if "out" not in path.parts[len(self.folder.parts) : len(self.folder.parts) + 1]
        }

    def main(self, *arguments: Any) -> tuple[int, str]:
        """Exit code and stderr of the command line, in this process."""
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            code = obsdiff_main([str(a) for a in arguments])
        return code, err.getvalue()

    @contextlib.contextmanager
    def instead(self, file: Path, content: bytes) -> Iterator[None]:
        """Replace a file's content inside the block."""
        before = file.read_bytes()
        file.write_bytes(content)
        try:
            yield
        finally:
            file.write_bytes(before)

    def command(self, kind: str, *arguments: Any, codes: tuple[int, ...] = (0, 2)) -> None:
        """Run a command and check its exit code and messages."""
        began = time.process_time()
        with watched_pickle():
            try:
                code, err = self.main(*arguments)
            except SystemExit as ended:  # --help
                code, err = ended.code, ""
        seconds = time.process_time() - began
        assert seconds < SLOW, f"{arguments}: {seconds:.1f} s"
        assert code in codes, f"{arguments}: exit code {code}: {err}"
        lines = [line for line in err.splitlines() if line.startswith(("error:", "failed:"))]
        assert len(lines) == (code != 0), f"{arguments}: {err}"
        self.check(kind, code)

    def check(self, kind: str, code: int) -> None:
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        (self.folder / "out.html").unlink(missing_ok=True)
        assert self.listing() == self.here, f"{kind}: left {self.listing() ^ self.here}"
        self.counts[kind, "done" if code == 0 else "refused"] += 1


@contextlib.contextmanager
def watched_pickle() -> Iterator[None]:
    """AssertionError if anything is unpickled."""

    def found(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    with (
        mock.patch.object(pickle, "load", found),
        mock.patch.object(pickle, "Unpickler", found),
        mock.patch.object(torch, "load", found),
    ):
        yield


def targets(ground: Ground) -> dict[str, Callable[[], None]]:
    """The fuzzed inputs, as hypothesis tests to be called."""
    index, record, layout = (
        ground.model / "model_index.json",
        ground.model / "obsdiff.json",
        ground.model / "transformer" / "config.json",
    )
    bits, packed = ground.packed / "transformer" / "config.json", ground.packed / WEIGHTS
    results, weights, prompts = (
        ground.run / "results.json",
        ground.model / WEIGHTS,
        ground.folder / "prompts.txt",
    )

    def with_file(
        strategy: st.SearchStrategy,
        file: Path,
        kind: str,
        *arguments: Any,
        codes: tuple[int, ...] = (0, 2),
    ) -> Callable[[], None]:
        """A command run with another content of one file."""

        @given(strategy)
        def run(content: bytes) -> None:
            with ground.instead(file, content):
                ground.command(kind, *arguments, codes=codes)

        return run

    def opened(strategy: st.SearchStrategy, file: Path, kind: str) -> Callable[[], None]:
        """The pipeline of a file opened with another content of it, and verified."""
        folder = file.parent.parent

        @given(strategy)
        def run(content: bytes) -> None:
            with ground.instead(file, content):
                with watched_pickle():
                    began, problem = time.process_time(), ""
                    try:
                        load_pipeline(open_folder(folder))
                    except UserError as error:
                        problem = str(error)
                    assert time.process_time() - began < SLOW
                assert "\n" not in problem, problem
                ground.check(kind, 2 if problem else 0)
                if folder == ground.packed:
                    ground.command(f"{kind}, verified", "verify", folder, codes=(0, 1, 2))

        return run

    @given(
        st.lists(
            st.tuples(st.sampled_from(FLAGS), st.one_of(st.none(), NUMBERS.map(str), TEXTS)),
            max_size=4,
        )
    )
    def flags(given_flags: list[tuple[str, str | None]]) -> None:
        arguments = [
            part
            for flag, value in given_flags
            for part in ((flag,) if value is None else (flag, value))
        ]
        ground.command("flags of inspect", "inspect", ground.model, *arguments)

    @given(st.one_of(TEXTS, st.from_regex(r"-?[0-9]{1,5}:-?[0-9]{1,5}", fullmatch=True)))
    def pattern(text: str) -> None:
        ground.command("patterns", "inspect", ground.folder / "dense", f"--pattern={text}")

    page = ("--output", ground.folder / "out.html", "--overwrite")
    return {
        "model_index": with_file(
            mutated_json(index.read_text()),
            index,
            "model_index.json",
            "inspect",
            ground.model,
            "--json",
        ),
        "obsdiff_json": with_file(
            mutated_json(record.read_text()),
            record,
            "obsdiff.json",
            "verify",
            ground.model,
            codes=(0, 1, 2),
        ),
        "results_json": with_file(
            mutated_json(results.read_text()), results, "results.json", "report", ground.run, *page
        ),
        "header": with_file(
            mutated_header(weights.read_bytes()),
            weights,
            "safetensors header",
            "inspect",
            ground.model,
            "--json",
        ),
        "prompts_file": with_file(
            mutated_bytes(prompts.read_bytes()),
            prompts,
            "prompts",
            "inspect",
            ground.model,
            "--prompts",
            prompts,
            "--json",
        ),
        "layout_json": opened(mutated_json(layout.read_text()), layout, "layout in config.json"),
        "bits_json": opened(mutated_json(bits.read_text()), bits, "bitmasks in config.json"),
        "bits_header": opened(mutated_header(packed.read_bytes()), packed, "header of bitmasks"),
        "bits_bytes": opened(mutated_bytes(packed.read_bytes()), packed, "bytes of bitmasks"),
        "flags": flags,
        "pattern": pattern,
    }


def fuzz(inputs: int, names: list[str] | None = None, seed: bool = False) -> Counter:
    """Run `inputs` inputs in all, divided over the targets; returns counts of accepted and refused
    ones."""
    with tempfile.TemporaryDirectory(prefix="stress-") as place:
        ground = Ground(Path(place))
        every = targets(ground)
        chosen = {name: every[name] for name in names or every}
        each = settings(
            max_examples=-(-inputs // len(chosen)),
            deadline=None,
            database=None,
            derandomize=not seed,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        for name, target in chosen.items():
            each(target)()
            print(f"{name}: {sum(ground.counts.values())} inputs so far", flush=True)
        return ground.counts


def main(given_arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--targets", nargs="+")
    args = parser.parse_args(given_arguments)
    counts = fuzz(args.inputs, args.targets, seed=True)
    for (kind, end), count in sorted(counts.items()):
        print(f"{kind}: {count} {end}")
    print(f"{sum(counts.values())} inputs")


if __name__ == "__main__":
    main()
