"""Where sources are: what can't be read is refused in one sentence, and what is no data is left out."""

from pathlib import Path

import lance
import pyarrow as pa
import pytest

from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.storage.uris import absolute, bucket_or_folder
from vista_core import UsageError

CSV = b"id,text\n1,x\n"


def refused(uri: str, kind=None) -> str:
    with pytest.raises(UsageError) as caught:
        open_source(uri, Columns(), kind=kind)
    message = str(caught.value)
    assert message.startswith(f"--source {uri}")
    assert "\n" not in message and "<" not in message
    return message


def test_a_relative_path_with_dots_is_resolved(tmp_path, monkeypatch):
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real/inner")
    monkeypatch.chdir(tmp_path / "jobs")
    assert absolute("../data/*.parquet") == f"{tmp_path}/data/*.parquet"
    assert absolute("../link/../x") == f"{tmp_path}/real/x", "as the system understands it"
    assert absolute("../link/x") == f"{tmp_path}/link/x", "without `..`, links stay"
    assert absolute("../../..//a/./b") == f"{tmp_path.parent.parent}/a/b"


def test_home_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute("~/x") == f"{tmp_path}/x"
    assert absolute("~nobody-of-this-name/x") == f"{Path.cwd()}/~nobody-of-this-name/x"


@pytest.mark.parametrize("name", ["a b", "jo@firma.de", "100%", "%20", "#1", "q?v=1", "ü日本", "a:b", "[1]"])
def test_any_name_of_a_folder(store, name):
    store.put(f"{name}/a.csv", CSV)
    source = open_source(absolute(store.uri(name)), Columns())
    [(records, _)] = [batch for unit in source.units() for batch in source.read(unit)]
    assert records["id"].to_pylist() == ["1"]


def test_file_uris_are_read_as_programs_and_as_people_write_them(tmp_path):
    folder = tmp_path / "a b%#"
    folder.mkdir()
    assert absolute(folder.as_uri()) == absolute(f"file://{folder}") == str(folder)
    assert absolute(f"file:{folder}") == absolute(f"file://localhost{folder}") == str(folder)


def test_the_case_of_a_scheme_and_its_slashes(tmp_path, monkeypatch):
    assert absolute("S3://bucket/A/") == "s3://bucket/A"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="s3:/bucket/x: a URI has two slashes: s3://bucket/x"):
        absolute("s3:/bucket/x")
    Path("s3:").mkdir()
    Path("s3:/x").write_bytes(CSV)
    assert absolute("s3:/x") == f"{tmp_path}/s3:/x"


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_without_a_scheme_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "127.0.0.1:9000")
    with pytest.raises(UsageError, match=f"{name} must be a URL, such as https://127.0.0.1:9000 or http://127"):
        absolute("s3://bucket/x")


@pytest.mark.parametrize("uri", ["/x.parquet", "/*.parquet"])
def test_a_file_in_the_root_allows_no_images_of_the_whole_disk(uri):
    assert absolute(uri) == uri
    assert bucket_or_folder(uri) == uri


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1/a.parquet", "https://127.0.0.1:1/a/", "https://h/x.lance"])
def test_a_web_server_is_refused_with_advice(uri):
    assert refused(uri).endswith(
        "sources are not read from web servers; download the files, or copy them to object storage"
    )


@pytest.mark.parametrize("uri", ["foo://b/x", "abfs://c/x", "ftp://h/x.csv", "hdfs://n/x", "s3n://b/x"])
def test_an_unknown_scheme_is_refused_with_those_that_are_known(uri):
    scheme = uri.partition("://")[0]
    assert f"only, not from {scheme}://; copy them there" in refused(uri)


def test_the_hub_of_hugging_face_is_refused_with_a_command():
    assert "`hf download --repo-type dataset NAME --local-dir FOLDER`" in refused("hf://datasets/owner/name")


@pytest.mark.parametrize("uri", ["s3://", "s3:///x", "gs://"])
def test_a_uri_without_a_bucket(uri):
    assert "it names no bucket, as " in refused(uri)


# Stores that can't be reached


@pytest.mark.parametrize("path", ["cat", "*.csv", "x.lance"])
@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "signature we calculated does not match"),
        ("AWS_ACCESS_KEY_ID", "wrong", "access key ID you provided does not exist"),
    ],
)
def test_wrong_credentials_are_said_without_xml(bucket, monkeypatch, separate_clients, path, name, value, cause):
    monkeypatch.setenv(name, value)
    assert cause in refused(bucket.uri(path))


def test_a_missing_bucket(s3):
    assert "bucket does not exist. Check the name of the bucket" in refused("s3://no-such-bucket/x")


def test_https_where_the_server_speaks_http(s3, monkeypatch, separate_clients):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint.replace("http:", "https:"))
    assert "The server speaks plain http: AWS_ENDPOINT_URL must begin with http://" in refused("s3://corpus/x")


def test_nothing_that_answers(monkeypatch, s3, separate_clients):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "AWS_ENDPOINT_URL has http:// instead of https:// or the other way round" in refused("s3://corpus/x")


# Typos


def test_a_typo_is_answered_with_what_is_there(local):
    local.put("catalog/products.parquet", b"x")
    local.put("empty/.hidden", b"x")
    local.put("spark.parquet/part-0", b"x")
    assert f"{local.uri('catalog')} has no product.parquet, but products.parquet" in refused(
        local.uri("catalog/product.parquet")
    )
    assert f"{local.root} has no catlog, but catalog" in refused(local.uri("catlog/a/*.parquet"))
    assert "has no zzzz." in refused(local.uri("zzzz"))
    assert "the folder has no files, hidden ones aside" in refused(local.uri("empty"))
    assert "nothing is there that the pattern matches" in refused(local.uri("catalog/*.csv"))
    assert "but folders, such as " + local.uri("spark.parquet: add /* to the pattern") in refused(
        local.uri("*.parquet")
    )


# What is no data


LEFT_BEHIND = [
    *(".part-0.csv.crc", "_spark_metadata/0", "old_$folder$", "_symlink_format_manifest/manifest"),
    *(".ipynb_checkpoints/a-checkpoint.csv", "__MACOSX/._a.csv", ".DS_Store", "._a.csv", "sub/.DS_Store"),
    *("Thumbs.db", "desktop.ini", "$RECYCLE.BIN/a.csv", "~$a.csv", "@eaDir/a.csv", "#a.csv#", ".a.csv.swp"),
]
UNFINISHED = ["a.csv~", "b.csv.crdownload", "b.csv.part", "b.csv.tmp", "c.csv._COPYING_", "d.csv.incomplete"]


def test_what_other_programs_leave_behind_is_left_out(store):
    store.put("a.csv", CSV)
    for name in LEFT_BEHIND:
        store.put(name, b"id,text\n2,y\n")
    source = open_source(store.root, Columns())
    assert list(source.files()) == [store.uri("a.csv")]
    assert len(source.describe()) == 2, "and nothing is said of it"


def test_what_is_unfinished_is_left_out_and_named(local):
    local.put("a.csv", CSV)
    for name in UNFINISHED:
        local.put(name, CSV)
    source = open_source(local.root, Columns())
    assert list(source.files()) == [local.uri("a.csv")]
    assert any(
        line.startswith(f"NOT READ: {len(UNFINISHED)} file(s) that are unfinished") for line in source.describe()
    )
    assert list(open_source(local.uri("b.csv.tmp"), Columns(), kind="csv").files()) == [local.uri("b.csv.tmp")]


def test_names_that_only_look_like_it_are_read(local):
    names = ["_DSC1.csv", "__HIVE_DEFAULT_PARTITION__/a.csv", "category=_x/a.csv", "part.csv", "tmp.csv", "a~b.csv"]
    for name in names:
        local.put(name, CSV)
    assert {uri.removeprefix(f"{local.root}/") for uri in open_source(local.root, Columns()).files()} == set(names)


def test_lance_tables_below_a_source_are_left_out_and_named(store):
    """Those of --db, for example."""
    store.put("a.csv", CSV)
    for name in ("db/t.lance", "db/t_rejects.lance", "odd"):
        lance.write_dataset(pa.table({"text": ["x"]}), store.uri(name))
    source = open_source(store.root, Columns())
    assert list(source.files()) == [store.uri("a.csv")]
    tables = [line for line in source.describe() if "Lance table" in line]
    assert [line.partition(":")[0] for line in tables] == ["NOT READ"]
    assert "3 Lance table(s), to be named one by one: " in tables[0]
    assert "is a LanceDB database: name one of its tables, such as " in refused(store.uri("db"))
    assert "is a Lance table: read it with --source-kind lance" in refused(store.uri("odd"))


def test_images_in_other_formats_alone_are_named(tmp_path):
    for name in ("a.heic", "b.SVG", "b.txt"):
        Path(tmp_path, name).write_bytes(b"x")
    assert "2 are images in other formats: convert them; the formats read are JPEG" in refused(str(tmp_path))
