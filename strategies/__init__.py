"""Three ways to turn a PyTorch module into a tagged ONNX file."""
