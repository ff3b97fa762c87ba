"""What the comparison with ONNX Runtime measures beside latency, and how it is summed up."""
