"""The state of the random generators that a model's dropout draws from, kept so that a stream can be encoded again."""

import torch
from torch import nn


class RandomState:
    """The generators' state at the time of creation, on the CPU and on every device that holds parameters.

    Args:
        model: The model that draws from them.
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy the states."""
        self.cpu = torch.get_rng_state()
        devices = {parameter.device for parameter in model.parameters()}
        self.devices = {
            device: torch.get_device_module(device).get_rng_state(device)
            for device in devices
            if device.type not in ("cpu", "meta")
        }

    def restore(self) -> None:
        """Set the generators to these states."""
        torch.set_rng_state(self.cpu)
        for device, state in self.devices.items():
            torch.get_device_module(device).set_rng_state(state, device)


__all__ = ["RandomState"]
