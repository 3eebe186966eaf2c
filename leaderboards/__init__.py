"""Leaderboards: result records and published figures, collected, compared and shown."""
