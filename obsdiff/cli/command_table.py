"""The commands, in the order of the help: what each runs, its arguments and examples."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from . import command_arguments as arguments
from .commands import demo_command, inspect_command, report_command, verify_command
from .draw import add_draw, draw_command
from .env import add_env, env_command
from .evaluate import evaluate_command
from .export import export_command
from .lora import lora_command
from .pack import add_pack, pack_command, unpack_command
from .plan import add_plan, plan_command
from .prune import prune_command
from .push import add_push, push_command
from .sweep import add_sweep, sweep_command


@dataclass(frozen=True)
class Command:
    """A subcommand."""

    run: Callable[[argparse.Namespace], None]
    add: Callable[[argparse.ArgumentParser], None]  # adds its arguments to its parser
    summary: str  # one line in the list of commands
    usage: str  # its arguments
    about: str  # the paragraph above its arguments
    epilog: str  # examples


EXAMPLES = """\
examples:
  obsdiff plan emoji-sd3
  obsdiff prune emoji-sd3 --pattern structured --sparsity 30% --output pruned
  obsdiff draw pruned "red apple, noto style"
  obsdiff evaluate pruned --against emoji-sd3 --output run
  obsdiff report run --output page.html

obsdiff COMMAND --help lists the flags of a command. Exit codes: 0 done, 2 wrong input, 1 failed."""

COMMANDS = {
    "prune": Command(
        prune_command,
        arguments.add_prune,
        "prune a pipeline and save the result",
        "MODEL --output DIR [flag ...]",
        "Prune the denoiser of a pipeline, and save the pipeline with a record (obsdiff.json).",
        """\
examples:
  obsdiff prune emoji-sd3 --sparsity 50% --output out
  obsdiff prune emoji-sd3 --preset best --pattern 2:4 --output out
  obsdiff prune emoji-sd3 --pattern structured --target-macs 80% --output out
  obsdiff prune --sparsity 0.3 0.5 emoji-sd3 --output out    (writes out/0.30 and out/0.50)
  torchrun --nproc-per-node 4 -m obsdiff prune emoji-sd3 --output out

Several values are separated by spaces; those of --sparsity and --pattern also by commas.
MODEL may follow them: without a MODEL elsewhere, it is the last value of --sparsity or --pattern
that is no share or pattern, else the last value of --include or --exclude without *, ? and [.""",
    ),
    "plan": Command(
        plan_command,
        add_plan,
        "does it fit, how long does it take, what do I get, what do I type",
        "MODEL [--vram GIB] [--ram GIB] [--target-vram GIB] [flag ...]",
        "Print what a pruning needs of card, memory and disk, its denoising steps, what each "
        "pattern\nchanges, and the command to type. Folders without weights are enough; flags are "
        "those of prune.",
        """\
examples:
  obsdiff plan emoji-sd3
  obsdiff plan FOLDER --vram 24 --ram 64
  obsdiff plan FOLDER --target-vram 12""",
    ),
    "inspect": Command(
        inspect_command,
        arguments.add_inspect,
        "print the plan of a pruning without running it: layers, packages, memory, cost",
        "MODEL [flag ...]",
        "Print the layers to prune, packages, memory and number of denoising steps; for structured "
        "pruning\nalso the remaining parameters and MACs. Nothing is run; folders without weights "
        "are enough.",
        """\
examples:
  obsdiff inspect emoji-sd3
  obsdiff inspect emoji-sd3 --pattern structured --target-parameters 80%
  obsdiff inspect FOLDER --pattern structured --sparsity 30% --json

MODEL may follow wildcards: without a MODEL elsewhere, it is the last value of --include or
--exclude without *, ? and [.""",
    ),
    "sweep": Command(
        sweep_command,
        add_sweep,
        "prune to several sparsities, evaluate, write the page, recommend one",
        "MODEL --output DIR [--sparsity SHARE ...] [flag ...]",
        "Prune to several sparsities from one dense pass, draw prompts that none is calibrated on, "
        "write the\npage OUTPUT/sweep.html, and say how much can be taken before prompts visibly "
        "change.",
        """\
examples:
  obsdiff sweep emoji-sd3 --output sweep
  obsdiff sweep emoji-sd3 --pattern structured --sparsity 0.1 0.2 0.3 --preset best --output sweep
  obsdiff sweep emoji-sd3 --pattern 2:4 structured --sparsity 0.3 --output sweep --quick""",
    ),
    "evaluate": Command(
        evaluate_command,
        arguments.add_evaluate,
        "compare pruned pipelines with the dense one: pictures, metrics, costs",
        "DIR [DIR ...] --against MODEL --output RUN [flag ...]",
        "Draw the same prompts with the same seeds with the dense and the pruned pipelines; write "
        "pictures\nand results.json, and print a table.",
        """\
examples:
  obsdiff evaluate out --against emoji-sd3 --output run
  obsdiff evaluate out --against emoji-sd3 --output run --quick
  obsdiff evaluate out/0.30 out/0.50 --against emoji-sd3 --output run --num-prompts 24
  obsdiff evaluate out --against FOLDER --output run --image-reward THUDM/ImageReward --download""",
    ),
    "report": Command(
        report_command,
        arguments.add_report,
        "write one self-contained HTML page about one or several evaluations",
        "RUN [RUN ...] --output PAGE.html [--overwrite]",
        "Write one self-contained HTML page: pictures side by side, plots, tables.",
        "example:\n  obsdiff report run --output page.html",
    ),
    "verify": Command(
        verify_command,
        arguments.add_verify,
        "check a pruned folder against its record: hashes, shapes, zeros, pattern",
        "DIR",
        "Check the files of a pruned folder against its record: hashes, shapes, zeros, pattern.",
        "example:\n  obsdiff verify out",
    ),
    "export": Command(
        export_command,
        arguments.add_export,
        "write a result in a form that other programs open",
        "DIR --to FORMAT --output PATH [flag ...]",
        "Write a result in a form that other programs open; docs/clients.md has what opens where.\n"
        "padded: dense shapes, in which what was removed is zeros; draws the same, saves nothing.\n"
        "single-file: one safetensors file under the names of the model's authors.\n"
        "gguf: the denoiser alone as one GGUF file, float16, bfloat16 or Q8_0.\n"
        "comfyui: the denoiser in its own shapes, for the node in integrations/comfyui.\n"
        "with-code: a structured result that diffusers opens without obsdiff, if its users let it\n"
        "run the file of code beside the weights (trust_remote_code=True).\n"
        "nunchaku-lite: a result of 4 bits for CUDA kernels, two codes in a byte.",
        "examples:\n  obsdiff export pruned --to padded --output padded\n"
        "  obsdiff export pruned --to single-file --output pruned.safetensors\n"
        "  obsdiff export pruned --to gguf --type q8_0 --output pruned.gguf",
    ),
    "pack": Command(
        pack_command,
        add_pack,
        "store the zeros of a result as bitmasks: a smaller folder",
        "DIR --output OUT",
        "Write a result of pattern unstructured or N:M with values and a bitmask in place of each\n"
        "pruned weight. The folder is smaller, and opens with diffusers after `import obsdiff`.",
        "example:\n  obsdiff pack pruned --output packed",
    ),
    "unpack": Command(
        unpack_command,
        add_pack,
        "write a packed result in its plain form",
        "DIR --output OUT",
        "Write a result of `obsdiff pack` with the plain weights that it was made from, bit for\n"
        "bit.",
        "example:\n  obsdiff unpack packed --output pruned",
    ),
    "push": Command(
        push_command,
        add_push,
        "send a result to the hub, with its card, licence and figures",
        "DIR OWNER/NAME [--evaluation RUN] [--private] [--dry-run]",
        "Verify a pruned folder and send it to a repository of the hub, with a card that names\n"
        "the dense model, its licence, the code that opens it and the command that made it. The\n"
        "login is that of `hf auth login`. Files that are there already are not sent again.",
        "examples:\n  obsdiff push pruned user/sd3-pruned --dry-run\n"
        "  obsdiff push pruned user/sd3-pruned --evaluation run --private",
    ),
    "draw": Command(
        draw_command,
        add_draw,
        "draw one picture with a pruned folder, or with any model",
        'MODEL "PROMPT" [--output PICTURE.png] [flag ...]',
        "Draw one picture. Steps, guidance and size are the folder's own: those of its "
        "calibration, or\nof a built-in; for other models the pipeline's.",
        """\
examples:
  obsdiff draw emoji-sd3 "red apple, noto style"
  obsdiff draw out "red apple, noto style" --seed 7 --output apple.png""",
    ),
    "env": Command(
        env_command,
        add_env,
        "print versions, device, cores and memory, for a bug report",
        "[--json]",
        "Print versions, device, cores and memory, for a bug report. Names no user, host or path.",
        "example:\n  obsdiff env --json",
    ),
    "lora": Command(
        lora_command,
        arguments.add_lora,
        "cut a LoRA of the dense model to a result with fewer heads, neurons or blocks",
        "FILE --for DIR --output FILE",
        "Write a LoRA file with the rows and columns that a structured result kept, or with the\n"
        "blocks that a result of pattern depth kept, numbered as there. A structured pipeline\n"
        "loads the uncut file as well; one with fewer blocks would put it on other blocks.",
        "example:\n  obsdiff lora style.safetensors --for pruned --output style-pruned.safetensors",
    ),
    "demo": Command(
        demo_command,
        arguments.add_demo,
        "prune the built-in model in seven ways, evaluate, and write the page",
        "[--output DIR] [--overwrite]",
        "Prune the built-in model in seven ways, evaluate them, and write OUTPUT/demo.html.",
        "example:\n  obsdiff demo --output obsdiff-demo",
    ),
}
