"""Losses: a pure function and a thin module each."""
