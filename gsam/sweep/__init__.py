"""Sweeps: many trainings of train.py over a space, kept in an Optuna study that any number of processes work on."""
