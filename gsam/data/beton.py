"""A .beton file being filled: FFCV 1.0.2's format, in the order of the samples, and a journal from which a killed
writer continues.

FFCV's own writer waits for ever when a worker dies, spreads the samples over the file as the workers come, and starts
again from nothing. Here the same pictures give the same bytes, with any number of workers and after any interruption.

Layout: header, one descriptor per field, one entry per sample, then pages of stored pictures, then a table (sample,
place, size) of them. The header is written last: a file without one is refused by every reader.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

import numpy as np

from gsam.data import ffcv_guard as guard
from gsam.data.checksum import checksum
from gsam.data.stored import PAGE_BYTES, Stored

IMAGE = ("mode", "width", "height", "data_ptr")  # of FFCV's entry for a picture
RECORD = np.dtype(
    [("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8"), ("size", "<u8"), ("label", "<i8"),
     ("checksum", "<i8")]
)  # fmt: skip


class BetonFile:
    """`path` with `n` samples: image, label, checksum. `description` says what they are; only a journal with the same
    one is continued.

    Give it to a `with` block, `add` the samples from number `done` on, and `finish`. Left otherwise, the complete pages
    and <path>.journal stay for the next run.
    """

    def __init__(self, path: str, n: int, description: dict[str, Any]) -> None:
        with guard.importing():
            from ffcv import types
            from ffcv.fields import IntField, RGBImageField
        self.path, self.journal, self.n = path, path + ".journal", n
        self._types = types
        self._fields = {"image": RGBImageField(), "label": IntField(), "checksum": IntField()}
        self._entry = types.get_metadata_type(list(self._fields.values()))
        entries_at = types.HeaderType.itemsize + len(self._fields) * types.FieldDescType.itemsize
        self._entries_at = entries_at
        self._pages_at = -(-(entries_at + n * self._entry.itemsize) // PAGE_BYTES) * PAGE_BYTES
        self._head = json.dumps(description, sort_keys=True).encode() + b"\n"
        self.done = 0
        """Samples whose page is in the file."""

    def __enter__(self) -> BetonFile:
        complete = self._complete()
        self._records, self.done = [complete], len(complete)
        self._page_at = self._pages_at if self.done == 0 else self._page_of(complete[-1]) + PAGE_BYTES
        self._page, self._waiting = bytearray(), []
        with open(self.journal + ".new", "wb") as file:
            file.write(self._head + complete.tobytes())
        os.replace(self.journal + ".new", self.journal)
        self._log = open(self.journal, "ab", buffering=0)  # noqa: SIM115
        self._file = open(self.path, "r+b" if self.done else "wb", buffering=0)  # noqa: SIM115
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()
        self._file.close()

    def add(self, stored: Stored, label: int) -> None:
        """The next sample."""
        size = len(stored.data)
        if len(self._page) + size > PAGE_BYTES:
            self._flush()
        place = self._page_at + len(self._page)
        self._waiting.append((stored.mode, stored.width, stored.height, place, size, label, stored.checksum))
        self._page += stored.data

    def finish(self) -> None:
        """Write what makes it a .beton file. The journal stays until the caller has given the file its name."""
        self._flush()
        records = np.concatenate(self._records)
        if len(records) != self.n:
            raise RuntimeError(f"{self.path}: {len(records)} of {self.n} samples were added")
        table = np.zeros(self.n, self._types.ALLOC_TABLE_TYPE)
        table["sample_id"], table["size"] = np.arange(self.n), records["size"]
        table["ptr"] = records["data_ptr"]
        entries = np.zeros(self.n, self._entry)  # zeros: also what lies between the fields is written
        for name in IMAGE:
            entries["f0"][name] = records[name]
        entries["f1"], entries["f2"] = records["label"], records["checksum"]
        header = np.zeros(1, self._types.HeaderType)
        header["version"], header["num_fields"] = self._types.CURRENT_VERSION, len(self._fields)
        header["page_size"], header["num_samples"] = PAGE_BYTES, self.n
        header["alloc_table_ptr"] = self._page_at
        self._write(table.tobytes(), self._page_at)
        os.ftruncate(self._file.fileno(), self._page_at + table.nbytes)  # an earlier run may have come further
        self._write(entries.tobytes(), self._entries_at)
        self._write(header.tobytes() + self._descriptors(), 0)
        os.fsync(self._file.fileno())

    def forget(self) -> None:
        """Remove the journal: the file has its final name."""
        with suppress(FileNotFoundError):
            os.remove(self.journal)

    def _flush(self) -> None:
        """The page into the file, then its samples into the journal."""
        if not self._waiting:
            return
        self._write(bytes(self._page).ljust(PAGE_BYTES, b"\0"), self._page_at)
        records = np.array(self._waiting, RECORD)
        self._log.write(records.tobytes())
        self._records.append(records)
        self.done += len(records)
        self._page_at += PAGE_BYTES
        self._page, self._waiting = bytearray(), []

    def _write(self, content: bytes, at: int) -> None:
        self._file.seek(at)
        left = memoryview(content)
        while len(left):
            left = left[self._file.write(left) :]

    def _descriptors(self) -> bytes:
        found = np.zeros(len(self._fields), self._types.FieldDescType)
        codes = {kind: code for code, kind in self._types.TYPE_ID_HANDLER.items()}
        for descriptor, (name, field) in zip(found, self._fields.items(), strict=True):
            descriptor["type_id"] = codes[type(field)]
            descriptor["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
            descriptor["arguments"][:] = field.to_binary()[0]
        return found.tobytes()

    def _page_of(self, record: np.void) -> int:
        """Where the page begins that holds this sample's picture; pages begin at multiples of their size."""
        return int(record["data_ptr"]) // PAGE_BYTES * PAGE_BYTES

    def _complete(self) -> np.ndarray:
        """The journal's records, as far as the file really holds their pictures: after a power cut it may not."""
        nothing = np.empty(0, RECORD)
        try:
            with open(self.journal, "rb") as file:
                head, body = file.readline(), file.read()
            pages = open(self.path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return nothing
        with pages:
            if head != self._head:
                return nothing
            records = np.frombuffer(body, RECORD, len(body) // RECORD.itemsize)
            for record in records:
                pages.seek(int(record["data_ptr"]))
                data = pages.read(int(record["size"]))
                if not data or checksum(np.frombuffer(data, np.uint8)) != record["checksum"]:
                    return records[records["data_ptr"] < self._page_of(record)]
        # Of the last page the journal may have a part, if it was being written: that page is made again.
        return records[records["data_ptr"] < self._page_of(records[-1])] if len(records) else records
