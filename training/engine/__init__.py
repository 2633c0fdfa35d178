"""The training loop and its parts.

- Set-up: `setup` (accelerate, logging, where to start), `build` (arguments -> data, processor, model).
- The run: `loop`; one step of it: `step`; what a step skips: `nonfinite`; signals: `interruption`; `waiting` for data.
- What is trained, and how fast: `optimization`, `lora`, `ema`.
- What makes it faster: `compile`, `precision`, `tower_products`, `patch_dropout`, `feature_cache`.
- What a run writes and resumes from: `checkpoint`; of it the state: `state_files`, what the run is: `run_record`;
  adapters alone: `adapter_files`.
"""
