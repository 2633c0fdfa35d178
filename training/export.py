"""Export a checkpoint: `python training/export.py --checkpoint C --output_dir D --format openvino --precision int8`.

Leaves in `output_dir` the graph (`model.onnx` with its `.data`, or `openvino_model.xml` with its `.bin`), the
processor, what `transformers.exporters.ExportedModel.from_pretrained` needs, and `agreement.json`: the graph's inputs
and outputs, the settings to run it with, and how far its embeddings of `test_data` are from PyTorch's. For int8 the
ranges of activations are taken from `train_data`.

`--format transformers` leaves a stock class of transformers in place of the graph, `CLIPModel`, `SiglipModel`,
`Siglip2Model` or `VisionTextDualEncoderModel`, and the processor that belongs to it: they load without this package
and without remote code.
"""

from training.arguments.data import DataArguments
from training.arguments.export import ExportArguments
from training.arguments.parser import parse_arguments
from training.arguments.script import quiet_libraries, script


@script()
def main() -> None:
    """Parse the arguments, export, compare, report."""
    arguments, data = parse_arguments((ExportArguments, DataArguments))

    from training.embedding.export_checkpoint import export_checkpoint

    quiet_libraries()
    export_checkpoint(arguments, data)


if __name__ == "__main__":
    main()
