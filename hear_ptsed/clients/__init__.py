"""Our models in the benchmarks of others; a client's package is imported when it is used."""
