"""Published networks, written operator by operator as ONNX graphs with random weights."""
