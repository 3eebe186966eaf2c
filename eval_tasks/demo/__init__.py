"""What `make demo` runs: the stages of training on soundscapes, and their evaluation."""
