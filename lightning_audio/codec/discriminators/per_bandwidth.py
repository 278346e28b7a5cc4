"""A discriminator for each bandwidth of a codec that is trained at many (EnCodec, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn


class DiscriminatorPerBandwidth(nn.Module):
    """One discriminator for each number of codebooks: what decoded audio sounds like depends on it.

    num_codebooks: the numbers, those of the quantiser's `dropout_numbers`.   make: makes one of the discriminators.
    """

    def __init__(self, *, num_codebooks: Sequence[int] | None, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        if not num_codebooks:
            raise ValueError(
                "a discriminator per bandwidth needs the numbers of codebooks that the codec trains with, got none: "
                "give the quantizer dropout_numbers, or take one discriminator for all"
            )
        self.of_number = nn.ModuleDict({str(number): make() for number in num_codebooks})

    def of(self, num_codebooks: int) -> nn.Module:
        """The one for audio that was decoded from so many codebooks."""
        if (name := str(num_codebooks)) not in self.of_number:
            raise ValueError(
                f"audio of {num_codebooks} codebooks, but there are discriminators for {', '.join(self.of_number)}"
            )
        return self.of_number[name]


def at_bandwidth(discriminators: Mapping[str, nn.Module], num_codebooks: int) -> dict[str, nn.Module]:
    """The discriminators that judge audio of so many codebooks, by name."""
    return {
        name: each.of(num_codebooks) if isinstance(each, DiscriminatorPerBandwidth) else each
        for name, each in discriminators.items()
    }
