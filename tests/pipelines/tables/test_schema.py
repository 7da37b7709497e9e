"""The columns of a table that vista makes."""

import dataclasses

import pyarrow as pa
import pytest

from pipelines.records import DECODED_FIELDS, FLOW_FIELDS, READ_FIELDS, RESERVED
from pipelines.tables.origin import Origin
from pipelines.tables.schema import table_schema
from pipelines.tables.vector_column import VectorColumn
from tests.tables import COLUMN

ORIGIN = Origin("vista-tiny", columns={"id": "sku"}, images="first")


def test_a_source_cannot_have_a_column_that_the_flow_or_the_table_adds():
    added = {field.name for field in (*READ_FIELDS, *FLOW_FIELDS, *DECODED_FIELDS)}
    made = set(table_schema(pa.schema([]), COLUMN, ORIGIN, image_uri=True, store_images=True).names)
    assert added | made <= RESERVED


@pytest.mark.parametrize(("image_uri", "store_images"), [(False, False), (True, True)])
def test_a_table_has_the_columns_that_were_asked_for(image_uri, store_images):
    extra = pa.schema([("price", pa.float64())])
    schema = table_schema(extra, COLUMN, ORIGIN, image_uri=image_uri, store_images=store_images)
    assert schema.field("vector").type == pa.list_(pa.float16(), 8)
    assert schema.field("price").type == pa.float64()
    assert ("image_uri" in schema.names, "image" in schema.names) == (image_uri, store_images)


def test_a_vector_column_of_another_name_has_a_fingerprint_column_of_its_own():
    column = dataclasses.replace(COLUMN, name="wide", since="run-2")
    schema = table_schema(pa.schema([]), column, ORIGIN)
    assert {"wide", "wide_fingerprint"} <= set(schema.names)
    assert "vector" not in schema.names
    assert VectorColumn.of(schema, "wide") == column
