"""What the last line of a command suggests can be typed."""

import shlex
from pathlib import Path

from obsdiff.cli.arguments import parse
from obsdiff.cli.evaluate import evaluate_command, fill_amounts
from obsdiff.cli.next_steps import after_evaluating, after_inspecting, after_pruning


def test_an_inspected_pruning_is_pruned_with_the_same_flags():
    words = shlex.split(
        "inspect 'my model' --vram 24 --pattern structured --sparsity 0.3 --json --vram=8"
    )
    line = after_inspecting(words)
    assert line == ("obsdiff prune 'my model' --pattern structured --sparsity 0.3 --output pruned")
    args = parse(shlex.split(line)[1:])
    assert (args.model, args.sparsity, args.output) == ("my model", [0.3], Path("pruned"))


def test_what_was_pruned_is_evaluated_against_its_model():
    line = "prune model.safetensors --config conf --output out --sparsity 0.3 0.5"
    words = shlex.split(line)
    line = after_pruning(parse(words), [Path("out/0.30"), Path("out/0.50")])
    args = parse(shlex.split(line)[1:])
    assert args.run is evaluate_command
    assert (args.against, args.config) == ("model.safetensors", Path("conf"))
    assert args.runs == [Path("out/0.30"), Path("out/0.50")]
    assert "without --quick" in after_evaluating(Path("run"), True)
    assert parse(shlex.split(after_evaluating(Path("run"), False))[1:]).output == Path("run.html")


def test_quick_takes_few_prompts_unless_a_number_is_given():
    def amounts(*words: str) -> tuple[int, int]:
        args = parse(["evaluate", "a", "--against", "b", "--output", "c", *words])
        fill_amounts(args)
        return args.num_prompts, args.rounds

    assert amounts() == (64, 5)
    assert amounts("--quick") == (8, 0)
    assert amounts("--quick", "--num-prompts", "5", "--rounds", "1") == (5, 1)
