"""The same pruned folders drawn by diffusers, ComfyUI's modules, ONNX Runtime and OpenVINO."""
