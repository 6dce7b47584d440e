"""Freezes and thaws a model's encoder."""

from math import ceil

from torch import nn

from segsweep.regime import EncoderState


class EncoderSwitch:
    """Decides which parameters of ``model.encoder`` are trained; those that the model itself froze stay frozen.

    Args:
        model: a segmenter; one without an encoder has nothing to switch.
    """

    def __init__(self, model: nn.Module) -> None:
        encoder = getattr(model, "encoder", None)
        self.encoder = encoder if isinstance(encoder, nn.Module) else nn.Identity()
        self.parameters = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        self.state: EncoderState = "trained"

    def set(self, state: EncoderState) -> None:
        """Switches to a state; ``thawed`` begins with everything frozen."""
        self.state = state
        self._free(len(self.parameters) if state == "trained" else 0)
        self.encoder.train(state != "frozen")

    def thaw(self, share: float) -> None:
        """Trains the last ``share`` of the parameters, the coarsest levels first; 1 or more: all of them."""
        self._free(ceil(min(share, 1.0) * len(self.parameters)))

    def keep_frozen(self) -> None:
        """Keeps the statistics of batch normalisation as they are: Lightning puts all modules in training mode."""
        if self.state == "frozen" and self.encoder.training:
            self.encoder.eval()

    def _free(self, num: int) -> None:
        first = len(self.parameters) - num
        for i, parameter in enumerate(self.parameters):
            parameter.requires_grad_(i >= first)
