"""What `python -m eval_tasks demo` runs: plug-ins and training stages, scored on a small task."""
