"""Interpretable models as Lightning modules."""
