"""Where Kindling's own files are, and what a setting that names a path may be."""

import hashlib
import importlib.util
import os
from pathlib import Path

from .checks import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def expand_folder(name: str, path: str) -> str:
    """The path that a setting `name` gives, with ~ for the home it stands for; `ConfigError` if it can be none."""
    if not path or not path.isprintable():
        raise ConfigError(f"{name}={path!r} is no path; leave it out, or give a folder")
    if path[0] + path[-1] in ("[]", "{}"):
        raise ConfigError(f"{name}={path} is a list or a mapping; give one folder")
    home = os.path.expanduser(path)
    if home.startswith("~"):
        raise ConfigError(f"{name}={path} is in no user's home, for there is no {Path(path).parts[0]}; give its path")
    return home


MAX_NAME_BYTES = 200
"""Bytes of a file's name; file systems have room for 255, and others are made of it, as `.NAME.json.new`."""


def safe_file_name(text: str, longest: int = MAX_NAME_BYTES) -> str:
    """The text as the name of a file; of one that is too long the beginning, and a hash of it all."""
    if len(text.encode("utf-8", "surrogateescape")) <= longest:
        return text
    hashed = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    beginning = text.encode("utf-8", "surrogateescape")[: longest - len(hashed) - 1]
    return f"{beginning.decode('utf-8', 'ignore')}-{hashed}"


def find_packaged_config(path: str) -> str:
    """The path; of one of Kindling's own files, configs/..., where it lies, if there is none of its name here."""
    parts = Path(path).parts
    if parts[:1] == ("configs",) and not os.path.exists(path) and (package := importlib.util.find_spec("configs")):
        places = (Path(folder, *parts[1:]) for folder in package.submodule_search_locations)
        return next((str(place) for place in places if place.is_file()), path)
    return path
