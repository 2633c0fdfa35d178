"""Multi-stream accumulation: one training step over a batch of any size, in streams that fit in memory.

e-CLIP (Shin et al. 2022, section 3.3) names it; the form is this package's. The contrast is over the whole batch,
and the gradient is that of one forward over it, exactly:

1. every stream is brought to the model's device and encoded. Its embeddings are kept, its graph only as far as memory
   allows;
2. the loss over the embeddings of all streams and ranks gives their gradients;
3. streams without a graph are encoded again, under the same random state, and the gradients go back through all.

    accumulate = MultiStreamAccumulation(model, stream_size=64)
    for inputs, catalog_ids in loader:
        loss = accumulate(inputs, catalog_ids)  # forward and backward
        optimizer.step()
        optimizer.zero_grad()

Plain gradient accumulation is something else: it contrasts each stream with itself alone.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import get_device_states, set_device_states

from ..losses.gather import gather_numbers
from ..losses.objective import ContrastiveObjective
from .memory import GraphBudget
from .plan import Batch, Stream, plan_streams
from .sharded import SCALARS, average_over_ranks, count_streams, is_sharded, pad_streams, without_reduction
from .transfer import InputTransfer, PrepareFunction

LossFunction = Callable[..., torch.Tensor]
# Of the CPU's generator, and of each device's by its number.
RandomState = tuple[torch.Tensor, list[int], list[torch.Tensor]]


class MultiStreamAccumulation:
    """Runs forward and backward of a training step, in streams.

    Under `DistributedDataParallel` each rank gives its own share of the batch, which may be empty; the contrast is
    over all ranks' offers, and gradients are reduced once per step. So it is where the weights are sharded (FSDP2):
    the blocks of the towers by `fully_shard(block)`, and the model by
    `fully_shard(model, ignored_params={model.logit_scale})`, with `model.logit_bias` beside it if there is one.

    Args:
        model: An [`EClipModel`], or one wrapped by `DistributedDataParallel`, by `torch.compile`, or by both.
        stream_size: Offers of a stream, for both towers; the whole batch if not given.
        text_stream_size: Offers of a stream of titles, where it shall differ.
        image_stream_size: Offers of a stream of images, where it shall differ.
        keep_graphs: Share of the streams, from 0 to 1, whose graphs are kept from the first encoding, so that they
            need no second one; `"auto"` keeps as many as the memory that is free at the start of the step allows, and
            none where the weights are sharded, since ranks must decide alike. The gradients are the same.
        prepare: Takes a stream's inputs on the model's device, as a dictionary, and returns the model's: a place to
            normalise 8-bit pixels, which are a quarter of the bytes to keep and to copy. Every stream of images gets
            what `inputs` hold that is no tensor, too.
        fix_batch_norm: Leave batch norm's statistics as they are. What it makes of an image otherwise depends on the
            images beside it, and so on how a batch is cut.
        loss_function: Takes titles' and images' embeddings, both `(B_rank, D)` in float32 (float64 of a model in
            float64), the log of the scale and the catalog ids `(B_rank,)`, and returns the loss. Where an offer of any
            rank lacks a side, also gets `has_text` and `has_image`, bool `(B_rank,)`, by name; rows of embeddings that
            are not there are zero. Of a model that has one, also gets the `logit_bias` by name.
            [`ContrastiveObjective`] over all ranks, as the model's configuration says, if not given.
        tile_size: As for [`contrastive_loss`].
        backward: Called with the loss in place of `loss.backward()`: `accelerator.backward`, or one that scales.

    Attributes:
        num_streams: Streams of the last step, on this rank.
        num_kept: Those of them that were encoded once.

    Raises:
        ValueError: sizes below 1, a share beyond 0 to 1, or a model that is sharded in part.
        NotImplementedError: the model is sharded by FSDP1, or wrapped with `static_graph=True`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        stream_size: int | None = None,
        text_stream_size: int | None = None,
        image_stream_size: int | None = None,
        keep_graphs: float | Literal["auto"] = "auto",
        prepare: PrepareFunction | None = None,
        fix_batch_norm: bool = True,
        loss_function: LossFunction | None = None,
        tile_size: int | None = None,
        backward: Callable[[torch.Tensor], Any] = torch.Tensor.backward,
    ) -> None:
        """Check the arguments."""
        self.text_stream_size = text_stream_size or stream_size
        self.image_stream_size = image_stream_size or stream_size
        for size in (stream_size, text_stream_size, image_stream_size):
            if size is not None and (not isinstance(size, int) or size < 1):
                raise ValueError(f"a stream size is {size!r}; give a positive number of offers, or None for all.")
        if keep_graphs != "auto" and not (isinstance(keep_graphs, int | float) and 0 <= keep_graphs <= 1):
            raise ValueError(f"`keep_graphs` is {keep_graphs!r}; give a share from 0 to 1, or 'auto'.")
        self._is_sharded = is_sharded(model)
        self._reducer = _find_reducer(model)
        if self._reducer is not None and self._reducer.static_graph:
            raise NotImplementedError(
                "the model is wrapped with `static_graph=True`, which counts gradients by the first backward pass; a "
                "step has one per stream. Leave it out."
            )
        self.model = model
        self.module = _unwrap(model)
        # Encodes without announcing a reduction; compiled as a whole where that is not wrapped around the reduction.
        self._alone = model if self._reducer is None else self.module
        self.fix_batch_norm = fix_batch_norm
        self.loss_function = loss_function or ContrastiveObjective(
            self.module.config, tile_size=tile_size, distributed=True
        )
        self.backward = backward
        self.num_streams = self.num_kept = 0
        self._row_counts: dict[str, tuple[int, ...]] = {}
        if self._is_sharded and keep_graphs == "auto":
            keep_graphs = 0.0
        self._budget = GraphBudget(self.module, keep_graphs)
        self._transfer = InputTransfer(prepare)

    def __call__(self, inputs: Mapping[str, Any], catalog_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Run forward and backward over one batch; the parameters' gradients are added to.

        Args:
            inputs: Arguments of [`EClipModel.forward`] for titles and images of the same `B_rank` offers; without an
                offer on this rank, tensors of no rows. Where offers may lack a side, also `has_text` and `has_image`,
                bool `(B_rank,)`: titles and images are then those of the offers that have them, in their order, and
                none is encoded for another, but for one placeholder where a rank has no title, or no image, at all.
                They may lie on the CPU: each stream's are copied to the
                model's device when it is encoded, and when it is encoded again, so that the device never holds those
                of the whole batch.
            catalog_ids: Catalog of each offer, int64, shape `(B_rank,)`, negative for an offer that is alone. Best
                on the CPU, as loaders give them: catalogs are found there, and the host would wait for a GPU's.

        Returns:
            The loss over the whole batch, detached, the same on every rank.

        Raises:
            ValueError: inputs that do not fit each other, or batch norm in training mode cut into several streams.
            RuntimeError: gradients are switched off.
        """
        if not torch.is_grad_enabled():
            raise RuntimeError("gradients are switched off (`torch.no_grad`), and a training step needs them.")
        batch = plan_streams(inputs, self.module.config, self.text_stream_size, self.image_stream_size)
        streams, device = batch.streams, self.module.logit_scale.device
        own = {"offers": batch.num_offers} | {
            modality: sum(len(stream.rows(modality)) for stream in streams) for modality in ("text", "image")
        }
        # All that ranks have to know of each other's share, in one message a step.
        *stream_counts, offers, text, image = zip(
            *gather_numbers((*count_streams(streams), *own.values()), device), strict=True
        )
        self._row_counts = {"offers": offers, "text": text, "image": image}
        in_one = not any(map(any, stream_counts))
        if self._is_sharded:
            streams = pad_streams(streams, [max(counts) for counts in stream_counts])
        self.num_streams = len(streams)
        with self._batch_norm(in_one):
            if in_one and not self._is_sharded:  # whose scale has no reduction of its own
                return self._step_in_one(streams[0], batch, catalog_ids)
            return self._step_in_streams(streams, batch, catalog_ids)

    def _step_in_one(self, stream: Stream, batch: Batch, catalog_ids: torch.Tensor | None) -> torch.Tensor:
        """Run a step as any other model's: nothing is cut on any rank."""
        self.num_kept = 1
        ((_, inputs),) = self._transfer([stream], self.module.logit_scale.device)
        output = self.model(**inputs, return_logits=False)
        embeds = []
        for modality, vectors in (("text", output.text_embeds), ("image", output.image_embeds)):
            rows = stream.rows(modality)
            vectors = _full(vectors[: len(rows)])  # without a title, or an image, there is a placeholder row
            if len(rows) < batch.num_offers:
                everywhere = vectors.new_zeros(batch.num_offers, vectors.shape[1])
                vectors = everywhere.index_copy(0, rows.to(vectors.device, non_blocking=True), vectors)
            embeds.append(vectors)
        text_embeds, image_embeds = embeds
        loss = self._loss(text_embeds, image_embeds, self._scalars(), catalog_ids, batch)
        self.backward(loss)
        return loss.detach()

    def _step_in_streams(self, streams: list[Stream], batch: Batch, catalog_ids: torch.Tensor | None) -> torch.Tensor:
        """Run a step in two passes; the last stream holds titles and images, and reduces the gradients."""
        device = self.module.logit_scale.device
        states: list[RandomState] = []
        rows: dict[str, list[torch.Tensor]] = {"text": [], "image": []}
        self._budget.start_step(streams)
        for number, (stream, inputs) in enumerate(self._transfer(streams, device)):
            states.append(_random_state(self.module))
            # A reduction belongs to the forward that announced it, which the wrapped model alone does.
            may_keep = self._reducer is None or number + 1 < len(streams)
            output = self._budget.encode(
                may_keep,
                functools.partial(self._encode, self._alone, inputs),
                functools.partial(_set_random_state, self.module, states[number]),
            )
            for modality, embeds in output.items():
                rows[modality].append(_full(embeds.detach())[: len(stream.rows(modality))])
        graphs = self._budget.graphs
        self.num_kept = sum(graph is not None for graph in graphs)
        after = _random_state(self.module)

        leaves: dict[str, torch.Tensor] = {}
        places: dict[str, tuple[torch.Tensor, ...]] = {}  # of each stream's rows, on the device, copied in one go
        for modality, parts in rows.items():
            joined, places_of = torch.cat(parts), [stream.rows(modality) for stream in streams]
            order = torch.cat(places_of).to(joined.device, non_blocking=True)
            places[modality] = order.split([len(part) for part in places_of])
            everywhere = joined.new_zeros(batch.num_offers, joined.shape[1])
            leaves[modality] = everywhere.index_copy_(0, order, joined).requires_grad_()
        scalars = {name: scalar.detach().requires_grad_() for name, scalar in self._scalars().items()}
        with torch.enable_grad():
            loss = self._loss(leaves["text"], leaves["image"], scalars, catalog_ids, batch)
        self.backward(loss)

        encoded_again = self._transfer(
            [stream for stream, graph in zip(streams, graphs, strict=True) if graph is None], device
        )
        for number in range(len(streams)):
            is_last = number + 1 == len(streams)
            with contextlib.nullcontext() if is_last else self._no_reduction():
                kept = graphs[number]
                if kept is not None:
                    output = kept
                else:
                    _, inputs = next(encoded_again)
                    _set_random_state(self.module, states[number])
                    output = self._encode(self.model if is_last else self._alone, inputs)
                roots, gradients = list(output.values()), []
                for modality, embeds in output.items():
                    gradients.append(_gradient(leaves[modality], places[modality][number], embeds))
                if is_last:  # an operation of the parameter, since a reduction waits for gradients that come by graph
                    roots += [parameter * 1 for parameter in self._scalars().values()]
                    for scalar in scalars.values():
                        gradient = torch.zeros_like(scalar) if scalar.grad is None else scalar.grad
                        gradients.append(average_over_ranks(gradient) if self._is_sharded else gradient)
                _back_propagate(roots, gradients)
            graphs[number] = None
            del kept, output, roots
        self._budget.end_step()
        _set_random_state(self.module, after)
        return loss.detach()

    def _scalars(self) -> dict[str, torch.Tensor]:
        """Return the parameters that the loss reads, by name."""
        scalars = {name: getattr(self.module, name) for name in SCALARS}
        return {name: scalar for name, scalar in scalars.items() if scalar is not None}

    def _loss(
        self,
        text_embeds: torch.Tensor,
        image_embeds: torch.Tensor,
        scalars: dict[str, torch.Tensor],
        catalog_ids: torch.Tensor | None,
        batch: Batch,
    ) -> torch.Tensor:
        """Compute the loss of the rank's share."""
        named: dict[str, Any] = {name: scalar for name, scalar in scalars.items() if name != "logit_scale"}
        if len(set(map(sum, self._row_counts.values()))) > 1:  # an offer of some rank lacks a side
            named |= {"has_text": batch.has_text, "has_image": batch.has_image}
        if isinstance(self.loss_function, ContrastiveObjective):  # which need not count the ranks' rows again
            named["row_counts"] = self._row_counts
        return self.loss_function(text_embeds, image_embeds, scalars["logit_scale"], catalog_ids, **named)

    def _encode(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the embeddings of a stream by modality."""
        if torch.is_autocast_enabled(self.module.logit_scale.device.type):
            torch.clear_autocast_cache()  # weights that were cast without a graph would be taken for constants
        output = model(**inputs, return_logits=False)
        embeds = {"text": output.text_embeds, "image": output.image_embeds}
        return {modality: value for modality, value in embeds.items() if value is not None}

    def _no_reduction(self) -> contextlib.AbstractContextManager[None]:
        if self._is_sharded:
            return without_reduction(self.model)
        return contextlib.nullcontext() if self._reducer is None else self._reducer.no_sync()

    @contextlib.contextmanager
    def _batch_norm(self, in_one: bool) -> Iterator[None]:
        """Keep batch norm's statistics fixed for a step, or refuse to train them in streams."""
        training = [
            module
            for module in self.module.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        ]
        if training and not self.fix_batch_norm and not in_one:
            raise ValueError(
                f"{len(training)} batch norm layers are in training mode and the batch is cut into {self.num_streams} "
                "streams: each stream would be normalised by its own statistics, which is not the whole batch's "
                "gradient. Keep them fixed (`fix_batch_norm=True`), or give a stream size that holds the batch."
            )
        try:
            for module in training if self.fix_batch_norm else ():
                module.eval()
            yield
        finally:
            for module in training:
                module.train()


def _random_state(model: nn.Module) -> RandomState:
    """Copy the state of the generators that a model's dropout draws from."""
    one_of_each_device = {parameter.device: parameter for parameter in model.parameters()}
    return torch.get_rng_state(), *get_device_states(*one_of_each_device.values())


def _set_random_state(model: nn.Module, state: RandomState) -> None:
    """Set the generators to a state, so that a stream is encoded again with the same dropout."""
    on_cpu, devices, on_devices = state
    torch.set_rng_state(on_cpu)
    set_device_states(devices, on_devices, device_type=next(model.parameters()).device.type)


def _find_reducer(model: nn.Module) -> DistributedDataParallel | None:
    """Return the wrapper that reduces gradients, whatever `torch.compile` wrapped around it."""
    model = getattr(model, "_orig_mod", model)
    return model if isinstance(model, DistributedDataParallel) else None


def _unwrap(model: Any) -> Any:
    """Return the model that `DistributedDataParallel`, `torch.compile` or both wrap, in any order."""
    while isinstance(model, DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, DistributedDataParallel) else model._orig_mod
    return model


def _full(embeds: torch.Tensor) -> torch.Tensor:
    """Return embeddings in float32 at least, which the loss is computed in."""
    return embeds.to(torch.promote_types(embeds.dtype, torch.float32))


def _back_propagate(roots: list[torch.Tensor], gradients: list[torch.Tensor]) -> None:
    """Send gradients back from the roots that have a graph."""
    pairs = [(root, gradient) for root, gradient in zip(roots, gradients, strict=True) if root.requires_grad]
    if pairs:
        torch.autograd.backward([root for root, _ in pairs], [gradient for _, gradient in pairs])


def _gradient(leaf: torch.Tensor, rows: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """Return the gradient of a stream's embeddings: zero for a placeholder row, or without influence on the loss."""
    gradient = torch.zeros_like(embeds)
    if leaf.grad is not None and len(rows):
        gradient.copy_(leaf.grad[rows])
    return gradient


__all__ = ["LossFunction", "MultiStreamAccumulation"]
