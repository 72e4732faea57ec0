"""`conform`: safe casts are made, everything else is named at once."""

import pyarrow as pa
import pytest

from schemas.caption import CAPTION
from schemas.conform import SchemaMismatch, conform
from schemas.corpus import CORPUS

SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("count", pa.int32()),
        pa.field("images", pa.list_(pa.large_binary())),
    ]
)


def test_columns_are_put_in_order_and_cast() -> None:
    table = pa.table(
        {
            "images": pa.array([[b"x", b"yz"], []], pa.large_list(pa.binary())),
            "uid": pa.array(["a", "b"], pa.dictionary(pa.int8(), pa.large_string())),
            "count": pa.array([7, None], pa.int64()),
        }
    )
    out = conform(table, SCHEMA)
    assert out.schema.equals(SCHEMA)
    assert out.to_pylist() == [
        {"uid": "a", "count": 7, "images": [b"x", b"yz"]},
        {"uid": "b", "count": None, "images": []},
    ]


def test_every_fault_is_named_in_one_error() -> None:
    table = pa.table({"count": ["7"], "extra": [1]})
    with pytest.raises(SchemaMismatch) as caught:
        conform(table, SCHEMA)
    text = str(caught.value)
    for part in ("missing uid (string)", "missing images", "extra extra", "count is string, expected int32"):
        assert part in text


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([2**40], pa.int64(), "count"),
        ([1.5], pa.float64(), "count is double"),
        ([b"1"], pa.binary(), "count is binary"),
    ],
)
def test_a_cast_that_would_change_a_value_is_refused(values: list[object], kind: pa.DataType, said: str) -> None:
    table = pa.table({"uid": ["a"], "count": pa.array(values, kind), "images": [[b"x"]]})
    with pytest.raises(SchemaMismatch, match=said):
        conform(table, SCHEMA)


def test_nulls_are_refused_where_the_schema_forbids_them() -> None:
    table = pa.table({"uid": ["a", None], "count": [1, 2], "images": [[b"x"], [b"y"]]})
    with pytest.raises(SchemaMismatch, match="uid: 1 nulls"):
        conform(table, SCHEMA)


def test_a_doubled_column_is_refused() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["count", "count"])
    with pytest.raises(SchemaMismatch, match="doubled count"):
        conform(table, SCHEMA)


def test_a_column_of_nulls_fits_any_nullable_type() -> None:
    table = pa.table({"uid": ["a"], "count": pa.nulls(1), "images": pa.nulls(1)})
    assert conform(table, SCHEMA).to_pylist() == [{"uid": "a", "count": None, "images": None}]


def test_captions_have_no_clock_and_the_columns_that_were_agreed() -> None:
    assert CAPTION.names == [
        *("uid", "uri", "fragment_id", "run_id", "status", "prompt", "text", "finish_reason", "num_prompt_tokens"),
        *("num_image_tokens", "num_output_tokens", "mean_logprob", "min_logprob", "max_tiles", "grid_rows"),
        *("grid_cols", "image_height", "image_width", "model", "model_revision", "error", "error_detail"),
    ]
    assert not any(pa.types.is_temporal(field.type) for field in (*CAPTION, *CORPUS))
    required = {field.name for field in CAPTION if not field.nullable}
    assert required == {"uid", "uri", "fragment_id", "run_id", "status", "prompt", "model", "model_revision"}
