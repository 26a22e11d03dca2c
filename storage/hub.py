"""Asking the Hugging Face Hub: patiently while a failure may pass, and in one sentence where it will not."""

import errno
import itertools
import logging
import os
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants, errors, get_token
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import get_session, validate_repo_id

from settings.checks import ConfigError

LOGGER = logging.getLogger(__name__)
ATTEMPTS = 8
FIRST_WAIT = 1.0
MAX_WAIT = 60.0
DISK_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG)
PERMANENT = (
    errors.RepositoryNotFoundError,
    errors.RevisionNotFoundError,
    errors.RemoteEntryNotFoundError,
    errors.HFValidationError,
    errors.OfflineModeIsEnabled,
)
CHECK_SECONDS = 10.0
"""How long the Hub may take to answer whether it has something."""
UNREACHABLE = {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"}
"""The HTTP library's errors, of whatever version, of a server that is not there. One that is slow or hangs up is."""
MODEL_FILES = ("config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json")
"""Of which a folder of a model, an adapter or a tokenizer has at least one."""
Result = TypeVar("Result")

_known_repositories: set[tuple[str, str]] = set()
"""Names and kinds of what the Hub was asked for already."""
_unreachable_reason = ""
"""What went wrong when the Hub was looked for; from then on this process has what the cache has, as offline."""


def with_retries(what: str, action: Callable[[], Result], done: str = "read") -> Result:
    """The result of an action over the network, tried again with growing waits while its failures may pass.

    `ConfigError` says that `what` cannot be `done`.
    """
    for attempt in itertools.count(1):
        try:
            return action()
        except ConfigError:  # which says it all
            raise
        except Exception as error:  # from OSError to the HTTP library's own, of whatever version
            if attempt == ATTEMPTS or not _is_transient(error):
                reason = _unreachable_reason or " ".join(redact_token(str(error)).split()) or type(error).__name__
                tried = f" after {attempt} attempts" if attempt > 1 else ""
                raise ConfigError(
                    f"{what} cannot be {done}{tried}: {reason}; check its name, your rights and your connection"
                ) from error
            wait = min(MAX_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
            LOGGER.warning("%s: %s; trying again in %.0f s", what, type(error).__name__, wait)
            time.sleep(wait)


def _is_transient(error: Exception) -> bool:
    """Whether a failure is of the network or the server, told by it or by any failure behind it."""
    from datasets.exceptions import DatasetNotFoundError

    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if constants.HF_HUB_OFFLINE or any(isinstance(error, (*PERMANENT, DatasetNotFoundError)) for error in chain):
        return False
    if any(isinstance(error, OSError) and error.errno in DISK_ERRORS for error in chain):
        return False
    statuses = [error.response.status_code for error in chain if isinstance(error, errors.HfHubHTTPError)]
    if statuses:
        return statuses[0] in (408, 429) or statuses[0] >= 500
    return any(isinstance(error, OSError) or type(error).__module__.startswith("http") for error in chain)


def check_repository(name: str, kind: str = "model"):
    """`ConfigError` unless the Hub has a `kind` of this name, or may have it: one request, before any that is retried.

    Where the Hub cannot be reached, this process is offline from then on: what the cache has is read, at once.
    """
    if (name, kind) in _known_repositories:
        return
    if not constants.HF_HUB_OFFLINE:
        _ask_once(lambda: HfApi().repo_info(name, repo_type=kind, timeout=CHECK_SECONDS), name, kind)
    if _unreachable_reason and kind == "model" and not _is_cached(name):
        raise ConfigError(f"{name} cannot be read: {_unreachable_reason}; check its name and your connection")
    _known_repositories.add((name, kind))


def check_hub_reachable(what: str):
    """`ConfigError` if the Hub, which `what` needs, cannot be reached."""
    if not constants.HF_HUB_OFFLINE:
        _ask_once(lambda: get_session().head(constants.ENDPOINT, timeout=CHECK_SECONDS), what, "site")
    if _unreachable_reason:
        raise ConfigError(f"{what}: {_unreachable_reason}; check your connection")


def _ask_once(ask: Callable, name: str, kind: str):
    """Ask the Hub once. That it fails otherwise than by being absent, or the name being unknown, says nothing."""
    global _unreachable_reason
    try:
        ask()
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise ConfigError(
            f"{name} cannot be read: it is no folder here and no {kind} of the Hub; check its name and your rights"
        ) from None
    except Exception as error:  # the HTTP library's own, of whatever version
        if not any(base.__name__ in UNREACHABLE for base in type(error).__mro__):
            return
        reason = " ".join(redact_token(str(error)).split()) or type(error).__name__
        _unreachable_reason = f"it is not here, and the Hub cannot be reached ({reason})"
        constants.HF_HUB_OFFLINE = True
        if "datasets.config" in sys.modules:  # which has copied it
            sys.modules["datasets.config"].HF_HUB_OFFLINE = True


def _is_cached(name: str) -> bool:
    folder = repo_folder_name(repo_id=name, repo_type="model")
    return any((Path(constants.HF_HUB_CACHE) / folder / "snapshots").glob("*"))


def redact_token(text: str) -> str:
    """The text, with `hf_***` for the token of whoever is logged in: a client quotes one that it cannot send."""
    token = get_token()
    for word in (token, repr(token.encode())[2:-1]) if token else ():
        text = text.replace(word, "hf_***")
    return text


def is_hub_name(name: str) -> bool:
    """Whether the Hub can have something of this name."""
    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        return False
    return True


def check_model_path(path: str) -> str:
    """The path of a model or a tokenizer, if it is a folder or the Hub can have something of this name.

    A `ValueError` says what it is instead.
    """
    if os.path.isdir(path):
        if not any(name.endswith((".json", ".model", ".txt")) for name in os.listdir(path)):
            raise ValueError(f"{path} holds no model and no tokenizer")
        check_has_model(Path(path))
        return path
    if os.path.isfile(path):
        raise ValueError(f"{path} is a file, no folder")
    if path[:1] in "./~" or not is_hub_name(path):
        raise ValueError(f"there is no folder {path}")
    check_repository(path)
    return path


def check_has_model(folder: Path):
    """`ConfigError` if a folder has no model or tokenizer of its own, but others that have: checkpoints of a run that
    was interrupted, of which the newest is named, or replicas."""
    if any((folder / name).exists() for name in MODEL_FILES):
        return
    if within := [path.parent for path in folder.glob("*/config.json")]:
        newest = min(within, key=lambda path: (-_checkpoint_step(path), path.name))
        raise ConfigError(f"{folder} has no model of its own; give the folder of one that it holds, such as {newest}")


def _checkpoint_step(checkpoint: Path) -> int:
    found = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(found[1]) if found else -1


def check_token():
    """`ConfigError` if the token of whoever is logged in cannot be sent: clients and their logs would quote it."""
    try:
        token = "" if constants.HF_HUB_OFFLINE else get_token() or ""
    except UnicodeDecodeError:  # its file is in another encoding
        token = "\0"
    if not (token.isascii() and token.isprintable()):
        raise ConfigError("the Hub's token has characters that no token has; run `hf auth login` or set HF_TOKEN anew")


def check_push_allowed():
    """`ConfigError` if nobody is there whom the Hub would let push."""
    if get_token() is None:
        raise ConfigError("nobody is logged in to the Hub; run `hf auth login`, or set HF_TOKEN")
    if constants.HF_HUB_OFFLINE and not _unreachable_reason:
        raise ConfigError("HF_HUB_OFFLINE=1 forbids to push to the Hub; unset it, or leave the push out")


def check_model_name(name: str):
    """`ConfigError` if no model can have this name."""
    if not is_hub_name(name):
        raise ConfigError(
            f"{name!r} is no name for a model, which has letters, digits, - _ and .; give NAME or USER/NAME as "
            "training.hub_model_id, or as --to"
        )
