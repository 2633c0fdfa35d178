"""faiss, which is an optional dependency."""

from types import ModuleType


def import_faiss(purpose: str) -> ModuleType:
    """Import faiss.

    Args:
        purpose: What it is needed for.

    Raises:
        ImportError: it is not installed; the message names the purpose and the remedy.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"faiss is needed for {purpose}: pip install faiss-cpu") from error
    return faiss


__all__ = ["import_faiss"]
