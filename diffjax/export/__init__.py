"""Policies as programs that run without diffjax: through ``jax.export``, or as an ONNX model."""
