"""Training on AudioSet Strong with ensemble distillation, to checkpoints that plug-ins load."""
