"""The parts of `lightning-audio evaluate`: the reference set, the audio that is made for it, ranks, and the roads."""
