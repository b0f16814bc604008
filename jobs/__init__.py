"""One thin module per stage: `python -m jobs.<stage> CONFIG.yaml [key=value …]`."""
