"""What shorter embeddings keep: `python training/embedding_sizes.py --embeddings outputs/embeddings`.

Takes what `embed.py` wrote of products with both modalities, and cuts it to several sizes, in float32 and to one bit
of each value. Of each size it prints the bytes of a vector, how often the image of a title is among the first found,
and how many of the 10 images that the whole vectors find first are found; with `--candidates` re-scored by them, too.
`sizes.json` in the folder holds the same.
"""

from training.arguments.embedding_sizes import SizesArguments
from training.arguments.parser import parse_arguments
from training.arguments.script import script


@script()
def main() -> None:
    """Parse the arguments, measure, print."""
    (arguments,) = parse_arguments((SizesArguments,))

    from training.embedding.embedding_sizes import measure_sizes, print_sizes

    print_sizes(measure_sizes(arguments))


if __name__ == "__main__":
    main()
