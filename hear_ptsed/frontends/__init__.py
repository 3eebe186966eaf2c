"""Front-ends: 16 kHz audio -> normalised log-mel spectrogram, one class per published recipe."""
