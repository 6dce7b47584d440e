"""Graphs that run without segsweep: ONNX and torch.export, checked, shrunk and measured."""
