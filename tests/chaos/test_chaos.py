"""A run may be disturbed at any moment: the same command then succeeds, and each record is in the table once."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import fsspec
import lance
import pytest

from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import embed
from pipelines.tables.dataset import open_dataset, published
from pipelines.tables.lease import holder_of
from tests.chaos import faulty_proxy
from tests.chaos.catalog import assert_rows, assert_same, catalog, changed, expected, parquet
from tests.chaos.points import POINTS, STOP
from tests.chaos.restartable_s3 import restartable
from tests.chaos.running import (
    TITLES,
    Ended,
    arguments,
    command,
    command_to,
    environment,
    kill,
    run,
    start,
)
from tests.s3 import BUCKET

pytestmark = pytest.mark.chaos

KILLS = int(os.environ.get("VISTA_KILLS", "20"))
SEED = int(os.environ.get("VISTA_SEED", "1"))
ONCE = {"before reading", "before publish", "before the tag moves", "after publish"}  # reached once in a run
MIDDLE = 3  # a bundle in the middle of the run
AFTER_SOME = 4  # a table of this version has rows
MANIFEST = r"/{name}\.lance/_versions/\d+\.manifest"
NEW_TABLE = 0.25  # probability that the next night starts with an empty table


def failed_clearly(ended: Ended) -> None:
    """A failed job logs the cause on a separate line; log output of Ray may precede it."""
    assert ended.code == 1, ended.output[-3000:]
    assert re.search(r"^\S+ ERROR ", ended.output, re.MULTILINE), ended.output[-3000:]


def ended_well(ended: Ended) -> None:
    assert ended.code == 0, ended.output[-3000:]


def table_name(text: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in text)


@pytest.mark.parametrize(
    "point, times", [(point, n) for point in POINTS for n in (1, MIDDLE) if n == 1 or point not in ONCE]
)
def test_a_run_killed_at_any_point_is_resumed(undisturbed, ray_address, point, times):
    name, source, db = table_name(f"{point}-{times}"), undisturbed.source, undisturbed.db
    ended = run(command_to(point, times, source, db, name), environment(ray_address))
    assert ended.code == -signal.SIGKILL, ended.output
    if point == "after publish":
        assert_rows(db, name, undisturbed.expected, "published")
    else:
        assert published(lance.dataset(f"{db}/{name}.lance")) is None
    embed(EmbedConfig(source, db, name, commit_seconds=0))  # like the command, but with warm workers
    assert_same(db, name, undisturbed.expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("point", POINTS)
def test_a_run_stopped_at_any_point_ends_in_order_and_is_resumed(undisturbed, ray_address, point, number):
    kind = {signal.SIGINT: "int", signal.SIGTERM: "term"}[number]
    name, source, db = table_name(f"{kind}-{point}"), undisturbed.source, undisturbed.db
    began = time.monotonic()
    ended = run(command_to(f"{kind}:{point}", 1, source, db, name), environment(ray_address))
    assert ended.code == 128 + number, ended.output
    assert time.monotonic() - began < undisturbed.seconds + 30
    assert f"stopped by {number.name}: " in ended.output
    assert "Traceback" not in ended.output
    table = lance.dataset(f"{db}/{name}.lance")
    assert holder_of(table).ended, "the lease was not released"
    [status] = lance.dataset(f"{db}/{name}_runs.lance").to_table(columns=["status"])["status"].to_pylist()
    assert status == "stopped"
    if point in ("before the tag moves", "after publish"):
        assert_rows(db, name, undisturbed.expected, "published")
    else:
        assert published(table) is None
    embed(EmbedConfig(source, db, name, commit_seconds=0))
    assert_same(db, name, undisturbed.expected)


@pytest.mark.timeout(0)  # the duration depends on VISTA_KILLS
def test_kills_at_random_moments_lose_nothing(s3, undisturbed, ray_address, capsys):
    """The driver, an encoder or a writer is killed at a random moment, night after night."""
    chance, killed, finished = random.Random(SEED), Counter(), 0
    db, tables = s3.url("random-db"), 0

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{time.monotonic() - began:5.0f} s: {text}", end="", flush=True)

    began = time.monotonic()
    say(f"VISTA_KILLS={KILLS} VISTA_SEED={SEED}")
    now = catalog()
    before, wanted = None, expected(now)
    source = now.store(s3, "chaos/random")
    name, version, seconds = f"night-{tables}", None, undisturbed.seconds
    while killed.total() < KILLS:
        job, started = start(command(source, db, name), environment(ray_address)), time.monotonic()
        kind = chance.choice(["driver", "driver", *TITLES])
        moment = chance.uniform(0, seconds / 2 if kind == "encoder" else seconds)  # encoders end before their run does
        was_killed = not job.ended_within(moment) and kill(kind, job)
        if was_killed:
            killed[kind] += 1
            version_now = published(dataset) if (dataset := open_dataset(f"{db}/{name}.lance")) else None
            if version_now is not None:  # still the old version, unless the run was finished before the kill
                assert_rows(db, name, before if version_now == version else wanted, "published")
        ended = job.end()
        took = time.monotonic() - started
        say(
            f"{killed.total()} kills {dict(killed)}, {finished} runs finished; {kind if was_killed else 'nothing'} "
            f"killed after {moment:.1f} s of {seconds:.0f}, exit code {ended.code} after {took:.1f} s"
        )
        if ended.code == -signal.SIGKILL:
            continue
        ended_well(ended)
        finished += 1
        assert_same(db, name, wanted)
        seconds = took
        if chance.random() < NEW_TABLE:
            tables += 1
            name, before, wanted = f"night-{tables}", None, expected(now)
        else:
            now = changed(now, chance)
            source = now.store(s3, "chaos/random")
            before, wanted = wanted, expected(now, wanted)
        dataset = open_dataset(f"{db}/{name}.lance")
        version = None if dataset is None else published(dataset)
    ended_well(run(command(source, db, name), environment(ray_address)))
    assert_same(db, name, wanted)
    say(f"{killed.total()} kills {dict(killed)}, {finished + 1} runs finished")


def test_a_run_survives_a_restart_of_the_store_or_is_resumed(undisturbed, ray_address, tmp_path):
    with restartable(tmp_path / "s3") as server:
        for number, rows in enumerate(undisturbed.catalog.files):
            server.fs.pipe_file(f"{BUCKET}/catalog/part-{number}.parquet", parquet(rows))
        source, db = f"s3://{BUCKET}/catalog", f"s3://{BUCKET}/db"
        outside = environment(ray_address, server.endpoint)
        job, fs = start(command(source, db, "t"), outside), server.fs
        while job.process.poll() is None and len(fs.glob(f"{BUCKET}/db/t.lance/_versions/*")) < AFTER_SOME:
            time.sleep(0.01)  # between two polls
        assert job.process.poll() is None
        server.kill()
        assert server.start()
        ended = job.end()
        if ended.code != 0:
            failed_clearly(ended)
        ended_well(run(command(source, db, "t"), outside))
        server.fs.get(f"{BUCKET}/db", str(tmp_path / "db"), recursive=True)
    assert_same(str(tmp_path / "db"), "t", undisturbed.expected)


@pytest.fixture(scope="module")
def proxy(s3):
    with faulty_proxy.in_front_of(s3.endpoint) as running:
        yield running


@pytest.fixture(autouse=True)
def healed(request):
    yield
    if "proxy" in request.fixturenames:
        request.getfixturevalue("proxy").heal()


def test_a_commit_whose_response_is_lost_counts_once(undisturbed, proxy, ray_address):
    source, db, name = undisturbed.source, undisturbed.db, "response-lost"
    outside = environment(ray_address, proxy.endpoint)
    job = start(command(source, db, name), outside)
    manifest = MANIFEST.format(name=name)
    proxy.wait_for("PUT", manifest, AFTER_SOME)
    proxy.lose_response(manifest)
    ended = job.end()
    assert len(proxy.suffered("lost")) == 1
    ended_well(ended)
    assert_same(db, name, undisturbed.expected)


def test_expired_credentials_are_reported(undisturbed, proxy, ray_address):
    source, db, name = undisturbed.source, undisturbed.db, "expired"
    outside = environment(ray_address, proxy.endpoint)
    job = start(command(source, db, name), outside)
    proxy.wait_for("PUT", MANIFEST.format(name=name), AFTER_SOME)
    proxy.expire_credentials()
    ended = job.end()
    assert proxy.suffered("expired")
    assert ended.code == 1, ended.output[-3000:]
    assert "credentials" in ended.output.lower() or "AWS_ACCESS_KEY_ID" in ended.output, ended.output[-3000:]
    failed_clearly(ended)
    proxy.heal()
    ended_well(run(command(source, db, name), outside))
    assert_same(db, name, undisturbed.expected)


def test_a_run_survives_a_short_outage_of_the_store_or_is_resumed(undisturbed, proxy, ray_address):
    source, db, name = undisturbed.source, undisturbed.db, "busy"
    outside = environment(ray_address, proxy.endpoint)
    job = start(command(source, db, name), outside)
    for commits, fault in ((AFTER_SOME, proxy.slow_down), (AFTER_SOME + 1, proxy.refuse)):
        proxy.wait_for("PUT", MANIFEST.format(name=name), commits)
        begun = len(proxy.requests)
        fault()
        proxy.wait_for("", "", begun + 3)
        proxy.heal()
    ended = job.end()
    if ended.code != 0:
        failed_clearly(ended)
        ended_well(run(command(source, db, name), outside))
    assert_same(db, name, undisturbed.expected)


FULL_DISK = """
mount -t tmpfs -o size="$SIZE" tmpfs "$DISK" || exit 9
"$@" > "$LOGS/first" 2>&1
echo $? > "$LOGS/code"
df "$DISK" >> "$LOGS/first"
mount -o remount,size=512m "$DISK"
"$@" > "$LOGS/second" 2>&1 && cp -r "$DISK" "$COPY"
"""


def test_a_full_disk_is_reported_and_the_run_resumes_on_a_larger_one(undisturbed, tmp_path):
    """The job runs on a small file system of its own, in a private mount namespace."""
    alone = ["unshare", "--map-root-user", "--mount"]
    trial = ["sh", "-c", f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"]
    if shutil.which("unshare") is None or subprocess.run([*alone, *trial], capture_output=True).returncode:
        pytest.skip("this machine does not allow private mounts (unshare --map-root-user --mount)")
    whole, path = fsspec.url_to_fs(f"{undisturbed.db}/{undisturbed.table}.lance")
    size = whole.du(path)
    disk, logs = tmp_path / "disk", tmp_path / "logs"
    disk.mkdir()
    logs.mkdir()
    variables = environment("local") | {  # its own Ray, so that its workers see the mount, too
        "SIZE": str(size // 2),
        "DISK": str(disk),
        "LOGS": str(logs),
        "COPY": str(tmp_path / "copy"),
    }
    job = command(undisturbed.source, str(disk / "db"), "t")
    ended = run([*alone, "sh", "-c", FULL_DISK, "sh", *job], variables)
    first = Ended(int((logs / "code").read_text()), (logs / "first").read_text())
    assert first.code == 1, first.output
    assert "No space left on device" in first.output, first.output
    failed_clearly(first)
    assert ended.code == 0, (logs / "second").read_text()
    assert_same(str(tmp_path / "copy" / "db"), "t", undisturbed.expected)


@pytest.mark.parametrize("point", ["before reading", "after the commit"])
def test_a_source_file_replaced_during_the_run_fails_it_and_the_next_run_resumes(undisturbed, s3, ray_address, point):
    now, db, name = undisturbed.catalog, undisturbed.db, table_name(f"replaced-{point}")
    source = now.store(s3, f"chaos/{name}")
    job = start(command_to(STOP + point, 1, source, db, name), environment(ray_address))
    assert job.stopped(), job.end().output
    last = tuple(row | {"text": f"{row['text']}, reworded"} for row in now.files[-1])
    after = dataclasses.replace(now, files=(*now.files[:-1], last))
    after.store(s3, f"chaos/{name}")
    job.resume()
    ended = job.end()
    if point == "before reading" or ended.code != 0:  # at a later point, the file may have been read already
        failed_clearly(ended)
        assert f"part-{len(now.files) - 1}.parquet changed" in ended.output
    ended_well(run(command(source, db, name), environment(ray_address)))
    assert_same(db, name, expected(after, expected(now)))


@pytest.mark.parametrize("point", ["after fragments are written", "after the commit", "before the tag moves"])
def test_a_driver_that_was_stopped_during_a_takeover_changes_nothing_when_it_resumes(undisturbed, ray_address, point):
    source, db, name = undisturbed.source, undisturbed.db, table_name(f"zombie-{point}")
    zombie = start(command_to(STOP + point, 1, source, db, name), environment(ray_address))
    assert zombie.stopped(), zombie.end().output
    refused = run(command(source, db, name), environment(ray_address))
    failed_clearly(refused)
    assert f"process {zombie.process.pid} on" in refused.output
    ended_well(run([*command(source, db, name), "--take-over"], environment(ray_address)))
    assert_same(db, name, undisturbed.expected)
    after = lance.dataset(f"{db}/{name}.lance")
    zombie.resume()
    ended = zombie.end()
    failed_clearly(ended)
    assert "was taken for dead" in ended.output
    assert lance.dataset(after.uri).version == after.version, "the resumed driver committed something"
    assert published(lance.dataset(after.uri)) == published(after)
    assert_same(db, name, undisturbed.expected)


def test_a_lost_node_costs_no_restart(s3):
    some = catalog()
    source, db, name = some.store(s3, "chaos/three-nodes"), s3.url("chaos-db"), "three-nodes"
    script = [sys.executable, "-m", "tests.chaos.three_nodes", *arguments(source, db, name)]
    ended = run(script, dict(os.environ))
    ended_well(ended)
    assert "2 nodes are left, and the job goes on" in ended.output, ended.output
    assert_same(db, name, expected(some))


@pytest.mark.timeout(900)
def test_gpus_that_come_late_are_used_and_may_be_lost(s3, tmp_path):
    some = catalog(files=8, rows=1500)
    source, db, name = some.store(s3, "chaos/late-gpus"), str(tmp_path / "db"), "late-gpus"
    options = ["--device", "cuda", "--num-actors", "2", "--transport-rows", "64", "--dtype", "float32"]
    script = [sys.executable, "-m", "tests.chaos.late_gpus", str(tmp_path), *arguments(source, db, name), *options]
    ended = run(script, dict(os.environ))
    for line in ("1 nodes encode", "2 nodes encode", "one of them was killed"):
        assert line in ended.output, ended.output
    ended_well(ended)
    assert_same(db, name, expected(some))


@pytest.mark.timeout(900)  # a call to a node that was cut off fails after a minute
def test_a_node_that_is_killed_and_one_that_is_cut_off_cost_no_restart(tmp_path, capsys):
    """Three nodes, each with a network of its own, and 100,000 records. What comes back later writes nothing."""
    alone = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "ip", "link"], capture_output=True).returncode:
        pytest.skip("this machine does not allow private networks (unshare --map-root-user --net)")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    script = [
        *alone,
        sys.executable,
        "-m",
        "tests.chaos.cut_off",
        str(tmp_path),
        os.environ.get("VISTA_ROWS", "100000"),
    ]
    ended = run(script, dict(os.environ) | token)
    with capsys.disabled():
        print(*[line for line in ended.output.splitlines() if re.match(r"\d+ s: ", line)], sep="\n")
    assert "the job goes on with one node" in ended.output, ended.output
    assert "the node that came back has ended, and has written nothing" in ended.output, ended.output
    assert ended.code == 0, ended.output
