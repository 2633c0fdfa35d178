"""Exports to ONNX and OpenVINO."""
