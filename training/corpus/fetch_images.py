"""Fetch the bytes of an offer's image, which are in the table, in a file or at an address.

Outsiders wrote the paths and addresses in a table. Web addresses are fetched by `download_images`, which refuses those
that are not public; a path must be inside the folder of the table.
"""

from pathlib import Path
from typing import Any

import daft
import daft.functions as F
from daft import DataType, Expression, Series, col

from training.arguments.prepare import PrepareArguments
from training.corpus.download_images import DownloadLimits, ImageDownloadError, download_images
from training.corpus.failing_hosts import FAILING_HOSTS

__all__ = ["image_bytes"]

_IMAGE = DataType.struct({"bytes": DataType.binary(), "reason": DataType.string()})
_ADDRESSES_AT_ONCE = 32
_REASONS = {
    "private_address": "image_refused",
    "bad_address": "image_refused",
    "given_up": "image_host_given_up",
}
_WEB = ("http://", "https://")
_STORES = ("s3://", "s3a://", "hf://", "gs://", "gcs://", "az://", "abfs://", "abfss://")  # read by Daft


def image_bytes(offers: daft.DataFrame, folder: Path | None, arguments: PrepareArguments) -> Expression:
    """Return the encoded images of a table.

    Args:
        offers: The table.
        folder: Folder of the table, to which paths are relative; `None` where it is not local.
        arguments: Name of the image column, and limits of downloads.

    Returns:
        For each row a struct: `bytes`, and `reason` where the image could not be fetched: `"image_unreachable"` (no
        such file, or no usable answer from the server), `"image_host_given_up"` (its web host could not be reached
        time and again, and is not waited for any more) or `"image_refused"` (an address or a path that outsiders must
        not make this machine read).

    Raises:
        ValueError: the column holds neither images nor paths or addresses.
    """
    image = col(arguments.image_column)
    kind = offers.schema()[arguments.image_column].dtype
    if kind.is_binary() or kind.is_null():  # null: no image in this part of the input
        return F.to_struct(bytes=image.cast(DataType.binary()), reason=daft.lit(None).cast(DataType.string()))
    if kind.is_struct() and {"bytes", "path"} <= set(kind.fields):
        inside, address = image["bytes"], F.when(image["bytes"].is_null(), image["path"]).otherwise(None)
    elif kind.is_string():
        inside, address = daft.lit(None).cast(DataType.binary()), image
    else:
        raise ValueError(
            f"`image_column` is {arguments.image_column!r}, which holds {kind}; name a column of images, of their "
            "bytes, or of paths or addresses."
        )
    limits = DownloadLimits(
        timeout=arguments.download_timeout,
        max_bytes=arguments.max_image_bytes,
        allow_private_addresses=arguments.allow_private_addresses,
    )
    address = address.strip()
    stored = F.download(_store_address(address), on_error="null")
    return _fetcher(folder, limits)(inside, address, stored)


@daft.func.batch(return_dtype=DataType.string())
def _store_address(addresses: Series) -> list[str | None]:
    """Keep the addresses that Daft reads itself; the others become null."""
    return [one if _begins(one, _STORES) else None for one in addresses.to_pylist()]


def _begins(address: str | None, schemes: tuple[str, ...]) -> bool:
    return address is not None and address[:8].lower().startswith(schemes)


def _fetcher(folder: Path | None, limits: DownloadLimits) -> Any:
    @daft.func.batch(return_dtype=_IMAGE, batch_size=_ADDRESSES_AT_ONCE)
    def fetch(inside: Series, addresses: Series, stored: Series) -> list[dict[str, Any]]:
        places = addresses.to_pylist()
        web = [place if _begins(place, _WEB) else None for place in places]
        downloaded = download_images(web, limits, hosts=FAILING_HOSTS)
        found = []
        for image, place, from_web, from_store in zip(
            inside.to_pylist(), places, downloaded, stored.to_pylist(), strict=True
        ):
            if image is not None or not place:
                found.append({"bytes": image, "reason": None})
            elif isinstance(from_web, ImageDownloadError):
                found.append({"bytes": None, "reason": _REASONS.get(from_web.reason, "image_unreachable")})
            elif _begins(place, (*_WEB, *_STORES)):
                image = from_web if from_web is not None else from_store
                found.append({"bytes": image, "reason": None if image is not None else "image_unreachable"})
            else:
                found.append(_read_file(place, folder, limits.max_bytes))
        return found

    return fetch


def _read_file(place: str, folder: Path | None, max_bytes: int) -> dict[str, Any]:
    if folder is None or "://" in place.removeprefix("file://"):
        return {"bytes": None, "reason": "image_refused"}
    try:
        path = (folder / place.removeprefix("file://")).resolve()
        if not path.is_relative_to(folder):
            return {"bytes": None, "reason": "image_refused"}
        if not path.is_file():  # also false for a pipe, which could be read forever
            return {"bytes": None, "reason": "image_unreachable"}
        with path.open("rb") as file:
            return {"bytes": file.read(max_bytes + 1), "reason": None}
    except (OSError, ValueError, RuntimeError):  # an impossible name, or a loop of links
        return {"bytes": None, "reason": "image_unreachable"}
