"""Sounds to render labelled audio from: soundfonts, recordings, synthetic speech, tones."""
