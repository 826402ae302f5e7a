"""docs/results.md: what the miniatures of configs/mini.yaml say about the paper's claims."""
