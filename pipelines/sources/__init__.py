"""Sources: where records are read from. `detect.open_source(uri, columns)` opens the source at a URI.

`source.Source` is what the rest of the pipeline uses: it lists files and units on the driver, and reads a unit on a
worker. Two classes implement it: `images.ImageFolder`, and `tabular.Tabular`, which turns the rows of any format into
records with the help of `columns.Layout`.

To add a format with rows and named columns, such as ORC:

1. Write `orc.py` with a class that implements the Protocol `format.Format`. If its source is a listing of files,
   inherit from `format.FileFormat`, as `parquet.Parquet` does: it is the shortest one to start from.
2. Give it a unit: `units.FilePart` if that is a whole file, else a subclass with what finds the part of the file.
   Units are pickled.
3. Register it in `detect.py`: its name in `Kind`, its suffixes in `SUFFIXES`, a line in `open_format`, and its first
   bytes in `kind_of` if they are distinctive.
4. Add tests in `tests/pipelines/sources/test_orc.py`, and a writer in `benchmarks/catalogs.py`, by which
   `tests/test_catalogs.py` compares what is read in each format.

A new Source that isn't tabular is opened in `detect.open_source`, like `ImageFolder`.
"""
