"""Imports faiss, an optional dependency."""

from types import ModuleType

__all__ = ["import_faiss"]


def import_faiss(purpose: str) -> ModuleType:
    """Import faiss.

    Args:
        purpose: What it is needed for.

    Returns:
        The module.

    Raises:
        ImportError: it is not installed; the message names the purpose and how to install it.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"faiss is needed for {purpose}: pip install faiss-cpu") from error
    return faiss
