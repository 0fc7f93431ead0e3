"""Adversarial examples: how little of an image has to change for the prediction to change."""
