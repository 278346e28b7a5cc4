"""Discriminators: networks that tell real audio from decoded audio, at several resolutions each.

Each maps wav [B, C, L] to one `Verdict` per resolution.
"""

from lightning_audio.codec.discriminators.mpd import MultiPeriodDiscriminator
from lightning_audio.codec.discriminators.msd import MultiScaleDiscriminator
from lightning_audio.codec.discriminators.msstft import MultiScaleSTFTDiscriminator
from lightning_audio.codec.discriminators.per_bandwidth import DiscriminatorPerBandwidth, at_bandwidth
from lightning_audio.codec.discriminators.verdict import Verdict

__all__ = [
    "DiscriminatorPerBandwidth",
    "MultiPeriodDiscriminator",
    "MultiScaleDiscriminator",
    "MultiScaleSTFTDiscriminator",
    "Verdict",
    "at_bandwidth",
]
