"""What the sub-commands of `hear-ptsed` do, and their options.

Importing torch takes seconds: whatever needs it is imported when a command runs.
"""
