"""Export any PyTorch or transformers model to verified, hierarchy-tagged ONNX."""
