"""The nodes that this folder adds to ComfyUI: copy or link it into ComfyUI's custom_nodes."""

from .nodes import LoadPrunedDiffusionModel

NODE_CLASS_MAPPINGS = {"ObsdiffLoadPrunedDiffusionModel": LoadPrunedDiffusionModel}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ObsdiffLoadPrunedDiffusionModel": "Load Pruned Diffusion Model (obsdiff)"
}
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
