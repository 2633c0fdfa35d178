"""Numbers of classes whose names a table tells (`datasets.ClassLabel`) to these names."""

from typing import Any

import datasets
import pyarrow as pa

__all__ = ["class_names", "named_feature"]


def named_feature(feature: Any) -> Any:
    """Returns the type of a column of class numbers once it holds their names; nothing for another column."""
    if isinstance(feature, datasets.ClassLabel):
        return datasets.Value("string") if feature.names else None
    if isinstance(feature, datasets.List | datasets.LargeList) and named_feature(feature.feature) is not None:
        return datasets.List(named_feature(feature.feature))
    return None


def class_names(column: pa.Array, feature: Any) -> pa.Array:
    """Returns the names of class numbers, also in lists; a negative number is no class."""

    def named(value: Any, feature: Any) -> Any:
        if isinstance(value, list):
            return [named(one, feature.feature) for one in value]
        return None if value is None or value < 0 else feature.int2str(value)

    kind = datasets.Features({"named": named_feature(feature)}).arrow_schema.field("named").type
    return pa.array([named(value, feature) for value in column.to_pylist()], kind)
