"""Int8 exports' side of the benchmarks: `int8_side.py WORK JSON`."""

import torch
from measure import measure, report
from real_offers import build_pretrained, mates_recall, read_offers

from modeling_eclip.export.parts import export_part


def embed_part(part: str, number: int, batch_size: int) -> dict[str, float]:
    """Embed offers with OpenVINO in int8; the ranges of activations are from other offers.

    `cosine_error` is 1 less the mean cosine to PyTorch's embeddings, `recall_loss` how many points of mates' recall@10
    are lost, at least what one offer counts for.
    """
    import openvino

    model, processor = build_pretrained()
    batches, catalogs = read_offers(processor, part, "test", number, batch_size)
    calibration, _ = read_offers(processor, part, "train", 300, 10)
    program = export_part(model, part, "openvino", batches[0], calibration=calibration).program
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(program, "CPU", threads)

    def embed() -> torch.Tensor:
        outputs = [
            compiled({name: value.numpy() for name, value in batch.items() if name != "token_type_ids"})
            for batch in batches
        ]
        return torch.cat([torch.from_numpy(output[f"{part}_embeds"].copy()) for output in outputs])

    embeds, seconds, peak_bytes = measure(embed, calls=3)
    with torch.no_grad():
        expected = torch.cat([model(**batch)[f"{part}_embeds"] for batch in batches])
    lost = mates_recall(expected, catalogs) - mates_recall(embeds, catalogs)
    return {
        "value": len(embeds),
        "seconds": seconds,
        "peak_bytes": peak_bytes,
        "cosine_error": 1 - (embeds * expected).sum(dim=1).mean().item(),
        "recall_loss": 100 * max(lost, 1 / number),
    }


if __name__ == "__main__":
    report({"embed_part": embed_part})
