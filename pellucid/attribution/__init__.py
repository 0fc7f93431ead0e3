"""Post-hoc explanations of one prediction of any network."""
