"""Run obsdiff's node for ComfyUI on one file, in a process of its own.

    python comfyui_node.py FILE INPUTS OUTPUT         PYTHONPATH names the checkout

INPUTS are the tensors of one call of ComfyUI's denoiser, by the names of its arguments. Its output
is written to OUTPUT, as `out`; `parameters` is how many weights the model has.
"""

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

from comfyui_loader import replace_missing

PACK = Path(__file__).parents[2] / "integrations" / "comfyui"


def node_pack() -> ModuleType:
    """Import the folder of nodes as ComfyUI does."""
    spec = importlib.util.spec_from_file_location("obsdiff_nodes", PACK / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = pack
    spec.loader.exec_module(pack)
    return pack


if __name__ == "__main__":
    file, inputs, output = sys.argv[1:]
    sys.argv[1:] = ["--cpu"]
    replace_missing()
    import comfy.options

    comfy.options.enable_args_parsing()
    logging.disable(logging.CRITICAL)
    import folder_paths
    import torch
    from safetensors.torch import load_file, save_file

    folder_paths.add_model_folder_path("diffusion_models", str(Path(file).parent))
    (node,) = node_pack().NODE_CLASS_MAPPINGS.values()
    assert Path(file).name in node.INPUT_TYPES()["required"]["unet_name"][0]
    (patcher,) = getattr(node(), node.FUNCTION)(Path(file).name)
    model = patcher.model.diffusion_model
    with torch.no_grad():
        out = model(**load_file(inputs))
    count = torch.tensor(sum(p.numel() for p in model.parameters()))
    save_file({"out": out.contiguous(), "parameters": count}, output)
