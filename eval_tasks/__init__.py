"""Downstream tasks: HEAR task folders, their preparation, and models scored on them."""
