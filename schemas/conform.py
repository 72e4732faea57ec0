"""Hold a table to a schema: exact columns, in order, cast where that is safe, refused otherwise.

Safe are casts that cannot change a value: wider and narrower strings, binaries and lists, integers whose values fit,
dictionaries to their values, nulls to anything nullable. What this does *not* do: look at values, or drop columns.
"""

import pyarrow as pa
import pyarrow.types as pat


class SchemaMismatch(TypeError):
    """A table does not have a schema's columns; the message names every one that is missing, extra or mistyped."""


def _castable(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type can become the other without changing what they say.

    Example:
        >>> _castable(pa.large_string(), pa.string()), _castable(pa.int64(), pa.int32())
        (True, True)
        >>> _castable(pa.int64(), pa.string()), _castable(pa.float64(), pa.int32())
        (False, False)
    """
    if given.equals(wanted) or pat.is_null(given):
        return True
    if pat.is_dictionary(given):
        return _castable(given.value_type, wanted)
    if _is_list(given) and _is_list(wanted):
        return _castable(given.value_type, wanted.value_type)
    same = (_is_text, _is_bytes, pat.is_integer, pat.is_floating)
    return any(kind(given) and kind(wanted) for kind in same)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pat.is_string(kind) or pat.is_large_string(kind) or pat.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pat.is_binary(kind) or pat.is_large_binary(kind) or pat.is_fixed_size_binary(kind))


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with exactly a schema's columns, in its order and types.

    Args:
        table: any table; its columns may be in another order.
        schema: one of this package.

    Raises:
        SchemaMismatch: a column is missing, extra, doubled, of a type that has no safe cast, out of range, or null
            where the schema forbids nulls. All of them are named at once.

    Example:
        >>> schema = pa.schema([pa.field("a", pa.int32()), pa.field("b", pa.string())])
        >>> conform(pa.table({"b": pa.array(["x"], pa.large_string()), "a": [7]}), schema).schema == schema
        True
    """
    faults = _column_faults(table.schema, schema)
    columns = []
    for field in schema if not faults else ():
        column = table.column(field.name)
        if not field.nullable and column.null_count:
            faults.append(f"{field.name}: {column.null_count} nulls where none are allowed")
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid as error:
            faults.append(f"{field.name}: {error}")
    if faults:
        raise SchemaMismatch("table does not conform: " + "; ".join(faults))
    return pa.Table.from_arrays(columns, schema=schema)


def _column_faults(given: pa.Schema, wanted: pa.Schema) -> list[str]:
    """Say what is wrong with the names and types of columns, one sentence for each."""
    names = given.names
    faults = [f"missing {field.name} ({field.type})" for field in wanted if field.name not in names]
    faults += [f"extra {name}" for name in dict.fromkeys(names) if name not in wanted.names]
    faults += [f"doubled {name}" for name in dict.fromkeys(names) if names.count(name) > 1]
    for field in wanted:
        if names.count(field.name) == 1:
            kind = given.field(field.name).type
            if not _castable(kind, field.type):
                faults.append(f"{field.name} is {kind}, expected {field.type}")
    return faults
