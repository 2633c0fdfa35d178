"""Patch dropping: in training, the image tower sees a random share of an image's patches (FLIP, Li et al. 2023).

The tower stays what it is: hooks choose among the patches after their embedding, in training mode only. Nothing of it
is in a checkpoint, and in evaluation all patches are seen. The choice is made by torch's own generator of the device:
encoding the same images again from the same random state drops the same patches.
"""

from typing import Any

import torch
from torch import nn

from modeling_eclip import EClipModel
from modeling_eclip.towers_eclip import count_patches

_TOLERANCE = 1e-3  # of the values' own size; what a change of order does in float32 is 1e-6


class PatchDropping:
    """Hooks on an image tower that keep a share of the patches.

    Args:
        model: The model; its image tower is the one that is hooked.
        share: Share of the patches that is kept, above 0 and below 1; their number is rounded, and at least one.

    Raises:
        ValueError: the share is no such number, the tower is compiled already, or it needs its patches in their
            places.
    """

    def __init__(self, model: EClipModel, share: float) -> None:
        """Check that the tower's patches are free, and hook it."""
        if not 0.0 < share < 1.0:
            raise ValueError(f"`keep_patches` is {share}; give a share above 0 and at most 1, where 1 drops nothing.")
        if model.vision_model._compiled_call_impl is not None:
            raise ValueError("`keep_patches` comes before `compile`: a compiled tower heeds no hooks that come later.")
        self.share = share
        self.tower, self.pooling = model.vision_model, model.config.vision_pooling
        self._kept: torch.Tensor | None = None  # of the images that are passing through the tower
        self._probe: torch.Tensor | None = None
        self._hooks: list[Any] = []
        try:
            self._install()
            self._check_that_patches_are_free()
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            self.remove()
            raise ValueError(
                f"`keep_patches` is {share}, but {type(self.tower).__name__} needs its patches all and in their "
                f"places ({error}); leave it at 1, or take a tower of free patches: ViT, CLIP, SigLIP, DINOv2 or 3."
            ) from error

    def remove(self) -> None:
        """Take the hooks off: the tower sees all patches again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def choose(self, batch_size: int, num_patches: int, device: torch.device) -> torch.Tensor:
        """Choose patches at random, for each image anew.

        Args:
            batch_size: Number of images, `B`.
            num_patches: Patches of each.
            device: Device whose generator chooses.

        Returns:
            Indices of the `K` kept patches, shape `(B, K)`.
        """
        num_kept = max(1, round(self.share * num_patches))
        return torch.rand(batch_size, num_patches, device=device).argsort(dim=1)[:, :num_kept]

    def _install(self) -> None:
        self._hooks.append(self.tower.embeddings.register_forward_hook(self._keep_embeddings, with_kwargs=True))
        if (rotary := getattr(self.tower, "rope_embeddings", None)) is not None:
            self._hooks.append(rotary.register_forward_hook(self._keep_positions))
        if self.pooling == "mean":
            self._hooks.append(self.tower.register_forward_hook(self._leave_prefix_out))

    def _keep_embeddings(self, module: nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> Any:
        self._kept = None
        if not module.training and self._probe is None:
            return output
        pixel_values = args[0] if args else kwargs["pixel_values"]
        num_patches = count_patches(self.tower.config, pixel_values)
        if num_patches is None or not isinstance(output, torch.Tensor) or output.ndim != 3:
            raise ValueError("they are no sequence")
        batch_size = len(output)
        kept = self._probe
        if kept is None:
            kept = self.choose(batch_size, num_patches, output.device)
        self._kept = kept
        # Class and register tokens come first, and stay.
        prefix, patches = output.tensor_split([output.shape[1] - num_patches], dim=1)
        return torch.cat([prefix, _take(patches, kept)], dim=1)  # (B, prefix + K, C)

    def _keep_positions(self, module: nn.Module, args: Any, output: tuple[torch.Tensor, ...]) -> Any:
        """Rotary positions `(N, D)`, the same for all images, become those of each image's patches `(B, 1, K, D)`."""
        if self._kept is None:
            return output
        return tuple(part[self._kept].unsqueeze(1) for part in output)

    def _leave_prefix_out(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The mean over patches is told from the number of all patches where the others begin; here there are none."""
        if self._kept is not None:
            output.last_hidden_state = output.last_hidden_state[:, -self._kept.shape[1] :]
        return output

    @torch.no_grad()
    def _check_that_patches_are_free(self) -> None:
        """Show the tower some patches of an image in two orders: where they are free it sees the same."""
        was_training = self.tower.training
        self.tower.eval()  # without dropout, and without a draw from torch's generator
        size = self.tower.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        parameter = next(self.tower.parameters())
        image = torch.linspace(-1, 1, 3 * height * width).sin().reshape(1, 3, height, width)
        image = image.to(parameter.device, parameter.dtype)
        num_patches = count_patches(self.tower.config, image)
        if num_patches is None:
            raise ValueError("they are no sequence")
        seen = []
        try:
            order = torch.arange(0, num_patches, 2, device=image.device)
            for shown in (order, order.flip(0)):
                self._probe = shown[None]
                hidden = self.tower(pixel_values=image, return_dict=True).last_hidden_state
                if self.pooling != "mean" and hidden.shape[1] >= num_patches:
                    raise ValueError("as many come out as if none were dropped")
                seen.append(hidden.mean(dim=1))
        finally:
            self._probe = self._kept = None
            self.tower.train(was_training)
        if (seen[0] - seen[1]).abs().max() > _TOLERANCE * seen[0].abs().max():
            raise ValueError("it sees another image in another order of them")


def _take(patches: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Take each image's kept patches: `(B, N, C)` and `(B, K)` to `(B, K, C)`."""
    return patches.gather(1, kept.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))


def drop_patches(model: EClipModel, share: float) -> PatchDropping | None:
    """Have a model's image tower see a share of the patches in training.

    Args:
        model: The model.
        share: Share of the patches that is kept; 1 drops nothing.

    Returns:
        The hooks, or nothing where nothing is dropped.

    Raises:
        ValueError: as [`PatchDropping`].
    """
    return None if share == 1.0 else PatchDropping(model, share)


__all__ = ["PatchDropping", "drop_patches"]
