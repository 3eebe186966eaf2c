"""What is learned from: annotation, clips, samples of them, batches; and what makes such data."""
