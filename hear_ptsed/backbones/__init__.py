"""Backbones: spectrogram -> sequence of frames, one file per published architecture."""
