"""One training step: set the learning rate, compute loss and gradient, take the step if both are finite, average.

`OptimizerStep` does this for any loss; `TrainingStep` is pre-training's, over a batch in streams.
"""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from transformers import PreTrainedModel

from modeling_eclip import ContrastiveObjective, MultiStreamAccumulation
from training.arguments.groups import TrainArguments
from training.arguments.schedule import BatchSizeSchedule, learning_rate_share, parse_batch_size_steps
from training.engine.ema import WeightAverage
from training.engine.nonfinite import BadSteps
from training.engine.optimization import build_optimizer
from training.retrieval.offer_embeddings import model_inputs

_PLAIN = (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_NPU, DistributedType.MULTI_XPU)


class OptimizerStep:
    """Takes steps on one model; a subclass defines the loss.

    Args:
        model: The model, frozen where it shall be, with its hooks and adapters.
        arguments: The training arguments.
        accelerator: The process's accelerator.
        total_samples: Samples of the whole run.

    Raises:
        NotImplementedError: `accelerate` is set to shard the parameters.
    """

    def __init__(
        self, model: PreTrainedModel, arguments: TrainArguments, accelerator: Accelerator, total_samples: int
    ) -> None:
        """Prepare model and optimizer for the accelerator's devices."""
        if accelerator.distributed_type not in (DistributedType.NO, *_PLAIN):
            raise NotImplementedError(
                f"`accelerate` is set to {accelerator.distributed_type.value}, which shards the model; averages, "
                "evaluation and checkpoints of a run are of whole weights. Use plain multi-GPU training; where a "
                "tower does not fit, use smaller streams and `gradient_checkpointing`, or in a loop of your own "
                "`fully_shard` and `MultiStreamAccumulation` (training/SCALING.md)."
            )
        self.arguments, self.accelerator, self.total_samples = arguments, accelerator, total_samples
        self.batch_size = BatchSizeSchedule(
            arguments.batch_size,
            parse_batch_size_steps(arguments.batch_size_schedule),
            total_samples,
            arguments.batch_size_rule,
        )
        optimizer = build_optimizer(
            model,
            learning_rate=arguments.learning_rate,
            tower_learning_rate=arguments.tower_learning_rate,
            layer_decay=arguments.layer_decay,
            weight_decay=arguments.weight_decay,
            no_weight_decay=arguments.no_weight_decay,
            betas=(arguments.adam_beta1, arguments.adam_beta2),
            epsilon=arguments.adam_epsilon,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.bare_model: Any = accelerator.unwrap_model(self.model)
        self.bad_steps = BadSteps(
            accelerator, arguments.max_bad_steps, Path(arguments.output_dir) / "not_a_number.json"
        )
        self.average = WeightAverage(self.bare_model, arguments.ema_decay) if arguments.ema_decay else None

    def __call__(self, batch: dict[str, Any], samples_seen: int) -> dict[str, float] | None:
        """Train on one batch, of which at least one rank has an offer.

        Args:
            batch: This rank's share, as `training.data.loaders` yields it.
            samples_seen: Samples before it.

        Returns:
            The metrics that are reported of the step, or nothing where it was skipped.

        Raises:
            FloatingPointError: too many steps in a row were not a number.
        """
        arguments = self.arguments
        rate = learning_rate_share(
            samples_seen,
            self.total_samples,
            warmup_share=arguments.warmup_share,
            final_share=arguments.final_learning_rate_share,
        ) * self.batch_size.learning_rate_factor(samples_seen)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        inputs = model_inputs(batch, self.accelerator.device)
        if arguments.channels_last and "pixel_values" in inputs and inputs["pixel_values"].ndim == 4:
            inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
        self.model.train()
        loss = self.backward(inputs, batch)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), arguments.max_grad_norm)
        is_finite = bool(torch.isfinite(loss)) and bool(torch.isfinite(norm))
        if is_finite or self.accelerator.scaler is not None:  # a scaler skips such a step itself, and adapts
            self.optimizer.step()
        self.optimizer.zero_grad()
        if not is_finite:
            self.bad_steps.bad(samples_seen, loss.item(), norm.item(), batch["row_ids"])
            return None
        self.bad_steps.good()
        self.after_step()
        if self.average is not None:
            self.average.update()
        return {
            "loss": loss.item(),
            "learning_rate": arguments.learning_rate * rate,
            "batch_size": float(self.batch_size(samples_seen)),
            "gradient_norm": norm.item(),
            **self.metrics(),
        }

    def backward(self, inputs: dict[str, torch.Tensor], batch: dict[str, Any]) -> torch.Tensor:
        """Compute the loss and its gradient.

        Args:
            inputs: The model's inputs on its device; a placeholder row where the rank has no usable row.
            batch: The batch that they are of.

        Returns:
            The loss, without a graph.
        """
        raise NotImplementedError

    def after_step(self) -> None:
        """Constrain the weights after the optimizer's step."""

    def metrics(self) -> dict[str, float]:
        """Return further metrics of a step."""
        return {}


class TrainingStep(OptimizerStep):
    """Pre-training's steps: the contrast of a whole batch, encoded in streams. See [`OptimizerStep`]."""

    def __init__(
        self, model: PreTrainedModel, arguments: TrainArguments, accelerator: Accelerator, total_samples: int
    ) -> None:
        """Prepare the accumulation, too."""
        super().__init__(model, arguments, accelerator, total_samples)
        self.accumulate = MultiStreamAccumulation(
            self.model,
            text_stream_size=arguments.text_stream_size,
            image_stream_size=arguments.image_stream_size,
            keep_graphs="auto" if arguments.keep_graphs == "auto" else float(arguments.keep_graphs),
            fix_batch_norm=arguments.fix_batch_norm,
            loss_function=ContrastiveObjective(
                self.bare_model.config, mate_contrast_weight=arguments.mate_contrast_weight, distributed=True
            ),
            backward=accelerator.backward,
        )

    def backward(self, inputs: dict[str, torch.Tensor], batch: dict[str, Any]) -> torch.Tensor:
        """Contrast the usable rows of all ranks."""
        usable = {name: value[: len(batch["row_ids"])] for name, value in inputs.items()}
        return self.accumulate(usable, batch["catalog_ids"].to(self.accelerator.device))

    def after_step(self) -> None:
        """Keep the temperature in range."""
        self.bare_model.clamp_logit_scale()

    def metrics(self) -> dict[str, float]:
        """Return the temperature and the number of streams."""
        return {
            "scale": self.bare_model.logit_scale.exp().item(),
            "streams": float(self.accumulate.num_streams),
            "streams_kept": float(self.accumulate.num_kept),
        }


__all__ = ["OptimizerStep", "TrainingStep"]
