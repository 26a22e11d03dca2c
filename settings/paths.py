"""Paths: Kindling's own files, folders in settings, and safe file names."""

import hashlib
import importlib.util
import os
from pathlib import Path

from .checks import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def expand_folder(name: str, path: str) -> str:
    """The folder given by a setting `name`, with ~ expanded; `ConfigError` if it cannot be a path."""
    if not path or not path.isprintable():
        raise ConfigError(f"{name}={path!r} is not a path; leave it out, or give a folder")
    if path[0] + path[-1] in ("[]", "{}"):
        raise ConfigError(f"{name}={path} is a list or a mapping; give one folder")
    home = os.path.expanduser(path)
    if home.startswith("~"):
        raise ConfigError(
            f"{name}={path} cannot be expanded: there is no home {Path(path).parts[0]}; give the full path"
        )
    return home


MAX_NAME_BYTES = 200
"""Maximum bytes of a file's name: file systems allow 255, and suffixes are added, as in `.NAME.json.new`."""


def safe_file_name(text: str, longest: int = MAX_NAME_BYTES) -> str:
    """The text as it is, slashes included; if it is too long for a file name, its beginning and a hash of it all."""
    if len(text.encode("utf-8", "surrogateescape")) <= longest:
        return text
    hashed = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    beginning = text.encode("utf-8", "surrogateescape")[: longest - len(hashed) - 1]
    return f"{beginning.decode('utf-8', 'ignore')}-{hashed}"


def find_packaged_config(path: str) -> str:
    """The path, or the installed file if `configs/...` does not exist in the current folder."""
    parts = Path(path).parts
    if parts[:1] == ("configs",) and not os.path.exists(path) and (package := importlib.util.find_spec("configs")):
        places = (Path(folder, *parts[1:]) for folder in package.submodule_search_locations)
        return next((str(place) for place in places if place.is_file()), path)
    return path
