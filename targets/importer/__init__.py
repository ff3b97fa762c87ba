"""Reading ONNX files into networks in normal form, and writing them back."""
