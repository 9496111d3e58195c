"""Models as ONNX graphs, for other runtimes."""
