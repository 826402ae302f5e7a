"""Starting trainings: torchrun under supervision. Imports no torch."""
