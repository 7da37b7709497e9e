"""Holds what readers saw against what is promised. It knows the catalogs, and nothing of how the job works.

1. Every version of the table has each id at most once, with a record of some night, and with the vector of its text.
2. A record that was published and is still in the catalog is in every version.
3. What is published is the catalog of one night, whole: that of the run that published it.
4. It never goes back to an earlier version, unless a process was suspended just when it moved the tag.
5. Nothing is embedded that the table had already.
6. A run that fails says why, by an error that is meant for people. One that lost the table to another run fails.
7. In the end, after one run that nobody disturbs, the table holds the catalog, and a second run finds nothing to do.
8. Rows of other clients stay as they are.
9. A run takes the table over from another one only if that one's process ended on the same machine, if the user said
   so, or if it sent no heartbeat for five minutes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.simulate.corpus import Corpus, Row
from tests.simulate.driver import DEAD_AFTER
from tests.simulate.others import GUEST
from tests.simulate.process import Driver

CLEAR = {"LeaseHeldError", "LeaseLostError", "HeartbeatLostError", "SourceChangedError"}


@dataclass
class Version:
    """A version of the table: who made it, and what readers saw in it."""

    number: int
    by: Driver | None  # None: another client
    at: int  # step of the world
    nights: int  # that there had been
    published: int | None  # at that moment
    rows: dict[str, Row] | None = None


@dataclass
class Move:
    """A move of the tag."""

    version: int
    by: Driver | None
    at: int  # how many nights there had been


@dataclass
class Checker:
    """Adds a line to `faults` for each promise that is broken."""

    faults: list[str]
    deletes: bool
    nights: list[Corpus] = field(default_factory=list)
    versions: dict[int, Version] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    judged: int = 0  # moves
    guests: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)  # guests of whom nobody knows whether they were written
    victims: dict[str, int] = field(default_factory=dict)  # rows that another client removed, and the step at which

    # What happens in the world

    def committed(self, number: int, by: Driver | None, step: int) -> None:
        """There is a version."""
        self.versions[number] = Version(number, by, step, len(self.nights), self.published)

    def moved(self, version: int, by: Driver | None) -> None:
        """Another version is published."""
        self.moves.append(Move(version, by, len(self.nights)))

    def meddled(self, what: str, key: str, step: int, done: bool) -> None:
        """Another client wrote."""
        if what == "append":
            (self.guests if done else self.doubtful).add(key)
        elif what == "delete guest":
            self.guests.discard(key)
            if not done:
                self.doubtful.add(key)
        elif what == "delete row":
            self.victims[key] = step

    @property
    def latest(self) -> int:
        """The latest version; 0 if there is none."""
        return max(self.versions, default=0)

    @property
    def published(self) -> int | None:
        """The version that is published."""
        return self.moves[-1].version if self.moves else None

    def published_ids(self) -> set[str]:
        """The ids of the catalog that are published, as far as readers have looked."""
        for move in reversed(self.moves[: self.judged]):
            rows = self.versions[move.version].rows or {}
            return {key for key in rows if not key.startswith(GUEST)}
        return set()

    def unseen(self) -> list[int]:
        """The versions at which nobody has looked yet."""
        return [number for number, each in sorted(self.versions.items()) if each.rows is None]

    # What is promised

    def took_over(self, by: Driver, holder: Driver, silent: float) -> None:
        """A run holds the table that another one held, which sent no heartbeat for so many seconds."""
        sees_its_end = not holder.alive and holder.start.machine == by.start.machine
        if not by.start.take_over and not sees_its_end and silent < DEAD_AFTER:
            self.broken(f"{by} took the table over from {holder}, which had sent a heartbeat {silent:.0f} s before")

    def seen(self, number: int, rows: Sequence[tuple], faults: Iterable[str]) -> None:
        """Readers saw these rows (id, text, price, file) in a version; `faults` are wrong whatever the catalog."""
        version = self.versions[number]
        version.rows = {key: Row(text, price, (file or "").rpartition("/")[2]) for key, text, price, file in rows}
        for fault in faults:
            self.broken(f"{fault}, in version {number} by {version.by or 'another client'}")
        for key, row in version.rows.items():
            if not key.startswith(GUEST) and not any(self.has(night, key, row) for night in self.nights):
                self.broken(f"{key} is {row} in version {number} by {version.by}, as on no night")
        for key in sorted(self.required(version) - version.rows.keys()):
            self.broken(f"{key} is missing in version {number} by {version.by}, though it is in the catalog as before")

    @staticmethod
    def has(night: Corpus, key: str, row: Row) -> bool:
        """True if a record of a night is this row."""
        return any(
            (each.id, each.text, each.price) == (key, row.text, row.price) for each in night.files.get(row.file, ())
        )

    def required(self, version: Version) -> set[str]:
        """The ids that a version has to have: sound in the published version and on all nights since."""
        move = next((each for each in self.moves[: self.judged] if each.version == version.published), None)
        if move is None or move.by is None:
            return set()
        nights = self.nights[move.by.corpus.night - 1 : version.nights]
        sound = set.intersection(
            *(set(night.rows) - {key for key, why in night.rejects if why == "empty_record"} for night in nights)
        )
        held = self.versions[move.version].rows or {}
        return (sound & held.keys()) - self.victims.keys()

    def judge(self) -> None:
        """Judge what was published since the last time."""
        for number, move in list(enumerate(self.moves))[self.judged :]:
            rows = self.versions[move.version].rows
            assert rows is not None and move.by is not None, "readers have looked, and only runs publish"
            gone = self.removed_during(move.by)
            self.whole(f"version {move.version}, published by {move.by},", rows, move.by.corpus, gone)
            before = self.moves[number - 1].version if number else 0
            if move.version < before and not move.by.is_out_of_order:
                self.broken(f"{move.by} published version {move.version} after {before}")
        self.judged = len(self.moves)

    def whole(self, what: str, rows: dict[str, Row], night: Corpus, gone: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """A version has the rows of one night, apart from those that another client removed meanwhile."""
        wanted = night.rows
        for key in sorted(wanted.keys() - rows.keys() - gone):
            self.broken(f"{what} lacks {key} of night {night.night}")
        for key in sorted(rows.keys() & wanted.keys()):
            if rows[key] != wanted[key] and key not in gone:  # a duplicate may have the place of one that is gone
                self.broken(f"{what} has {rows[key]} for {key}; of night {night.night} is {wanted[key]}")
        empty = {(each.id, name) for name, records in night.files.items() for each in records if each.text is None}
        for key in sorted(rows.keys() - wanted.keys()):
            if not key.startswith(GUEST) and (self.deletes or (key, rows[key].file) in empty):
                self.broken(f"{what} still has {key}, which night {night.night} has not")

    def ended(self, driver: Driver, what: str, message: dict) -> None:
        """A run ended by itself."""
        excused = set(CLEAR)
        if (driver.denied or driver.mute) and message.get("explained"):
            excused.add(what)  # the store refused something, and the message says so with the cure
        if self.removed_during(driver):
            excused.add("GateError")  # perhaps the very rows are gone that the canary would have looked at
        later = [each.at for each in self.versions.values() if each.by and each.by.number > driver.number]
        if what == "done" and min(later, default=driver.told) < driver.told:
            self.broken(f"{driver} ended well, although a later run had taken the table over")
        if what != "done" and what not in excused:
            self.broken(f"{driver} ended with {what}: {message.get('message', '')[:300]}")
        held = self.versions[driver.base].rows if driver.base else {}
        for key, text in message.get("encoded", ()):
            if held and key in held and held[key].text == text and key not in self.victims:
                self.broken(f"{driver} embedded {key} again, which the table had with this text")

    def removed_during(self, driver: Driver) -> set[str]:
        """The ids that another client removed since a run began."""
        return {key for key, step in self.victims.items() if step >= driver.began}

    def at_rest(self, driver: Driver, again: bool) -> None:
        """A run ended that nobody disturbed."""
        what = driver.at.message.get("ended") if driver.at else None
        if what != "done":
            self.broken(f"{driver}, which nobody disturbed, ended with {what}")
        encoded = driver.at.message.get("encoded") if driver.at else None
        if again and encoded:
            self.broken(f"{driver} embedded {encoded}, although nothing had changed")
        if again and any(move.by is driver for move in self.moves):
            self.broken(f"{driver} published a version, although nothing had changed")

    def at_the_end(self, corpus: Corpus, rejects: Sequence[tuple[str, str]], statuses: Sequence[str]) -> None:
        """What the tables hold when all is done."""
        for which, number in (("the latest version", self.latest), ("the published version", self.published)):
            rows = self.versions[number].rows if number else None
            if rows is None:
                self.broken(f"there is no {which}")
                continue
            self.whole(which, rows, corpus)
            there = {key for key in rows if key.startswith(GUEST)}
            for key in sorted((there ^ self.guests) - self.doubtful):
                self.broken(f"{key}, a row of another client, is {'still' if key in there else 'no longer'} in {which}")
        found = Counter(rejects)
        if found != corpus.rejects:
            self.broken(f"rejects are missing: {corpus.rejects - found}, or too many: {found - corpus.rejects}")
        if "running" in statuses:
            self.broken(f"NAME_runs says that a run is running: {statuses}")

    def broken(self, what: str) -> None:
        """A promise is broken."""
        self.faults.append(what)
