"""One training step: set the learning rate, compute loss and gradient, take the step if both are finite, average.

`OptimizerStep` does this for any loss; `TrainingStep` is pre-training's, over a batch in streams.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from modeling_eclip import ContrastiveObjective, MultiStreamAccumulation
from training.arguments.schedule import BatchSizeSchedule, learning_rate_share, parse_batch_size_steps
from training.arguments.train import TrainArguments
from training.data.inputs import finish_pixels, raw_inputs
from training.engine.ema import WeightAverage
from training.engine.nonfinite import BadSteps
from training.engine.optimization import build_optimizer
from training.engine.teacher import DistillationObjective, Teacher


class OptimizerStep:
    """Takes steps on one model; a subclass defines the loss.

    Args:
        model: The model, frozen where it shall be, with its hooks and adapters.
        arguments: The training arguments.
        accelerator: The process's accelerator.
        total_samples: Samples of the whole run.
    """

    def __init__(
        self, model: PreTrainedModel, arguments: TrainArguments, accelerator: Accelerator, total_samples: int
    ) -> None:
        """Prepare model and optimizer for the accelerator's devices."""
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
            text_learning_rate=arguments.text_learning_rate,
            layer_decay=arguments.layer_decay,
            weight_decay=arguments.weight_decay,
            no_weight_decay=arguments.no_weight_decay,
            betas=(arguments.adam_beta1, arguments.adam_beta2),
            epsilon=arguments.adam_epsilon,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        # With `keep_torch_compile`, accelerate would take the reduction of gradients out of the compiled model.
        self.bare_model: Any = accelerator.unwrap_model(self.model, keep_torch_compile=False)
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
        self.model.train()
        loss = self.backward(batch)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), arguments.max_grad_norm)
        # Read in one go: each read makes the host wait for the device.
        watched = {"loss": loss, "gradient_norm": norm} | self.watched()
        values = dict(zip(watched, torch.stack([value.float() for value in watched.values()]).tolist(), strict=True))
        is_finite = math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])
        if is_finite or self.accelerator.scaler is not None:  # a scaler skips such a step itself, and adapts
            self.optimizer.step()
        self.optimizer.zero_grad()
        if not is_finite:
            if self._scaler_adapts(values["loss"]):
                return None
            self.bad_steps.bad(samples_seen, values["loss"], values["gradient_norm"], batch["row_ids"])
            return None
        self.bad_steps.good()
        self.after_step()
        if self.average is not None:
            self.average.update()
        return {
            **values,
            "learning_rate": arguments.learning_rate * rate,
            "batch_size": float(self.batch_size(samples_seen)),
            **self.metrics(),
        }

    def _scaler_adapts(self, loss: float) -> bool:
        """Tell whether a step was left out since gradients were scaled beyond float16, which the next are less."""
        scaler = self.accelerator.scaler
        # Gradients that overflow unscaled, or a loss that does, are the model's own fault.
        return scaler is not None and math.isfinite(loss) and scaler.get_scale() >= 1

    def backward(self, batch: dict[str, Any]) -> torch.Tensor:
        """Compute the loss and its gradient.

        Args:
            batch: This rank's share, on the CPU; a placeholder row where the rank has no usable row.

        Returns:
            The loss, without a graph.
        """
        raise NotImplementedError

    def after_step(self) -> None:
        """Constrain the weights after the optimizer's step."""

    def watched(self) -> dict[str, torch.Tensor]:
        """Return further metrics that lie on the device, scalars without a graph, before the step is taken."""
        return {}

    def metrics(self) -> dict[str, float]:
        """Return further metrics of a step, which the host knows."""
        return {}


class TrainingStep(OptimizerStep):
    """Pre-training's steps: the contrast of a whole batch, encoded in streams. See [`OptimizerStep`]."""

    def __init__(
        self,
        model: PreTrainedModel,
        arguments: TrainArguments,
        accelerator: Accelerator,
        total_samples: int,
        teacher: Teacher | None = None,
    ) -> None:
        """Prepare the accumulation, too, and learn from a teacher if there is one."""
        super().__init__(model, arguments, accelerator, total_samples)
        terms: dict[str, Any] = {"mate_contrast_weight": arguments.mate_contrast_weight, "distributed": True}
        self.objective = ContrastiveObjective(self.bare_model.config, **terms)
        if teacher is not None:
            self.objective = DistillationObjective(
                self.bare_model.config,
                **terms,
                weight=arguments.teacher_weight,
                relation_scale=arguments.teacher_scale,
                teacher=teacher,
            )
        self.accumulate = MultiStreamAccumulation(
            self.model,
            text_stream_size=arguments.text_stream_size,
            image_stream_size=arguments.image_stream_size,
            keep_graphs="auto" if arguments.keep_graphs == "auto" else float(arguments.keep_graphs),
            prepare=partial(finish_pixels, channels_last=arguments.channels_last),
            fix_batch_norm=arguments.fix_batch_norm,
            loss_function=self.objective,
            backward=accelerator.backward,
        )

    def backward(self, batch: dict[str, Any]) -> torch.Tensor:
        """Contrast the usable rows of all ranks."""
        num_usable = len(batch["row_ids"])
        if isinstance(self.objective, DistillationObjective):
            self.objective.row_ids[:] = batch["row_ids"]
        usable = {
            name: value[:num_usable] if isinstance(value, torch.Tensor) else value
            for name, value in raw_inputs(batch).items()
        }
        return self.accumulate(usable, batch["catalog_ids"])

    def after_step(self) -> None:
        """Keep the temperature in range."""
        self.bare_model.clamp_logit_scale()

    def watched(self) -> dict[str, torch.Tensor]:
        """Return the inverse temperature, the bias of a sigmoid, and the distance from a teacher, if there are any."""
        watched = {"scale": self.bare_model.logit_scale.detach().exp()}
        if self.bare_model.logit_bias is not None:
            watched["bias"] = self.bare_model.logit_bias.detach()
        return watched | (self.objective.measured if isinstance(self.objective, DistillationObjective) else {})

    def metrics(self) -> dict[str, float]:
        """Return the number of streams."""
        return {
            "streams": float(self.accumulate.num_streams),
            "streams_kept": float(self.accumulate.num_kept),
        }


__all__ = ["OptimizerStep", "TrainingStep"]
