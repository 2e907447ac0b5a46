"""Trained policies as C, ONNX, safetensors and NumPy files."""
