"""Writes arrays to files and flushes them to disk."""

import io
import os
from pathlib import Path

import numpy as np


class TokenFile:
    """A one-dimensional `.npy` file that ids are appended to; its length is written on closing."""

    def __init__(self, path: Path, dtype):
        self.file = path.open("wb")
        self.dtype = np.dtype(dtype)
        self.length = 0
        self._write_header()

    def append(self, ids):
        """Add ids at the end."""
        array = np.asarray(ids, dtype=self.dtype)
        self.file.write(memoryview(array).cast("B") if len(array) else b"")
        self.length += len(array)

    def close(self):
        """Write the length and flush the file to disk."""
        self.file.seek(0)
        self._write_header()  # numpy pads headers so that a longer first dimension fits in the same place
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def _write_header(self):
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.file, header)


def save_array(path: Path, array: np.ndarray):
    """As `np.save`, and flushed to disk on return."""
    whole = io.BytesIO()
    np.save(whole, array)
    with path.open("wb") as file:
        file.write(whole.getbuffer())  # not by numpy, whose error does not say that the disk is full
        file.flush()
        os.fsync(file.fileno())
