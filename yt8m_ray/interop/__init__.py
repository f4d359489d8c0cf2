"""Weights of the published TensorFlow systems -> our models."""
