"""The paper's theory, measured: each experiment is a module, on a function that is written down or on a small network."""
