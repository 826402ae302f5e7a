"""Carrying out the catalogue: which trainings are there, which are missing, what they cost, and running them."""
