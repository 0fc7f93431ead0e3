"""Interpretability metrics: a pure function and a torchmetrics class each."""
