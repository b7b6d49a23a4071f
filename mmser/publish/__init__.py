"""Trained heads for others to use: as ONNX files, and as repositories on the Hugging Face hub."""
