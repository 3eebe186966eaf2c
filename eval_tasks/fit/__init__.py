"""Trainings of a plug-in on a task: one file per trainer, chosen by the protocol."""
