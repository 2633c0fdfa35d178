"""Embed a corpus: `accelerate launch training/embed.py --checkpoint CHECKPOINT --input products.parquet`.

Writes to `output_dir` parquet files with `row_id`, `catalog_id`, `text_embeds` and `image_embeds` of every row, and
`report.json`, which counts the titles and images that could not be embedded. A stopped run resumes where it was;
`accelerate` starts a process for each device.
"""

from training.arguments.embed import EmbedArguments
from training.arguments.parser import parse_arguments
from training.arguments.script import quiet_libraries, script


@script()
def main() -> None:
    """Parse the arguments and embed."""
    (arguments,) = parse_arguments((EmbedArguments,))

    from training.embedding.embed_corpus import embed_corpus

    quiet_libraries()
    report = embed_corpus(arguments)
    if report:
        print(f"{report['rows']:,} rows, {report['files']} files in {arguments.output_dir}")


if __name__ == "__main__":
    main()
