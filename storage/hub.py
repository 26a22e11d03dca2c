"""Requests to the Hugging Face Hub: retries of transient failures, one-sentence errors for permanent ones."""

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
"""Timeout for asking the Hub whether it has a repository."""
CHECK_WAITS = (0.5, 1.5)
"""Seconds before each further attempt to connect."""
UNREACHABLE = {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"}
"""Errors of the HTTP library, of any version, for a server that cannot be reached (not for one that is slow)."""
MODEL_FILES = ("config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json")
"""Files of which a folder with a model, an adapter or a tokenizer has at least one."""
Result = TypeVar("Result")

_known_repositories: set[tuple[str, str]] = set()
"""Names and kinds of repositories that were already checked."""
_unreachable_reason = ""
"""Why the Hub could not be reached; from then on this process is offline and uses only the cache."""


def with_retries(what: str, action: Callable[[], Result], done: str = "read") -> Result:
    """The result of a network action, retried with increasing waits as long as its failures are transient.

    Otherwise a `ConfigError` says that `what` cannot be `done`.
    """
    for attempt in itertools.count(1):
        try:
            return action()
        except ConfigError:  # already a complete sentence
            raise
        except Exception as error:  # from OSError to those of the HTTP library, of any version
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
    """Whether a failure, or any of its causes, is a network or server error that a retry may fix."""
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
    """`ConfigError` if the Hub has no repository of this name and `kind`; one request, or a few in two
    seconds if there is no connection.

    If the Hub cannot be reached, this process is offline from then on and reads from the cache.
    """
    if (name, kind) in _known_repositories:
        return
    if not constants.HF_HUB_OFFLINE:
        _ask(lambda: HfApi().repo_info(name, repo_type=kind, timeout=CHECK_SECONDS), name, kind)
    if _unreachable_reason and kind == "model" and not _is_cached(name):
        raise ConfigError(
            f"{name} cannot be read: it is not in the local cache, and {_unreachable_reason}; check its name and your "
            "connection"
        )
    _known_repositories.add((name, kind))


def check_hub_reachable(what: str):
    """`ConfigError` if the Hub cannot be reached; `what` needs it."""
    if not constants.HF_HUB_OFFLINE:
        _ask(lambda: get_session().head(constants.ENDPOINT, timeout=CHECK_SECONDS), what, "site")
    if _unreachable_reason:
        raise ConfigError(f"{what}: {_unreachable_reason}; check your connection")


def _ask(ask: Callable, name: str, kind: str):
    """Ask the Hub; errors other than an unknown name or an unreachable Hub are ignored."""
    global _unreachable_reason
    try:
        _ask_again(ask)
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise ConfigError(
            f"{name} cannot be read: it is neither a local folder nor a {kind} on the Hub; check its name and "
            "your rights"
        ) from None
    except Exception as error:  # those of the HTTP library, of any version
        if not any(base.__name__ in UNREACHABLE for base in type(error).__mro__):
            return
        reason = " ".join(redact_token(str(error)).split()) or type(error).__name__
        _unreachable_reason = f"the Hub cannot be reached ({reason})"
        constants.HF_HUB_OFFLINE = True
        if "datasets.config" in sys.modules:  # which has its own copy
            sys.modules["datasets.config"].HF_HUB_OFFLINE = True


def _ask_again(ask: Callable):
    """Ask, and again after short waits where no connection is made: a name server may fail once."""
    for wait in CHECK_WAITS:
        try:
            return ask()
        except Exception as error:
            if not any(base.__name__ == "ConnectError" for base in type(error).__mro__):
                raise
            time.sleep(wait)
    return ask()


def _is_cached(name: str) -> bool:
    folder = repo_folder_name(repo_id=name, repo_type="model")
    return any((Path(constants.HF_HUB_CACHE) / folder / "snapshots").glob("*"))


def redact_token(text: str) -> str:
    """The text with the user's token replaced by `hf_***`: clients quote a token that they cannot send."""
    token = get_token()
    for word in (token, repr(token.encode())[2:-1]) if token else ():
        text = text.replace(word, "hf_***")
    return text


def is_hub_name(name: str) -> bool:
    """Whether this is a valid repository name."""
    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        return False
    return True


def check_model_path(path: str) -> str:
    """The path, if it is a folder with a model or tokenizer, or a repository name that the Hub may have.

    Otherwise a `ValueError` or `ConfigError` with the reason.
    """
    if os.path.isdir(path):
        if not any(name.endswith((".json", ".model", ".txt")) for name in os.listdir(path)):
            raise ValueError(f"{path} holds neither a model nor a tokenizer")
        check_has_model(Path(path))
        return path
    if os.path.isfile(path):
        raise ValueError(f"{path} is a file, not a folder")
    if path[:1] in "./~" or not is_hub_name(path):
        raise ValueError(f"there is no folder {path}")
    check_repository(path)
    return path


def check_has_model(folder: Path):
    """`ConfigError` if a folder has no model or tokenizer itself but contains folders that do: checkpoints of an
    interrupted run (the message names the newest) or replicas."""
    if any((folder / name).exists() for name in MODEL_FILES):
        return
    if within := [path.parent for path in folder.glob("*/config.json")]:
        newest = min(within, key=lambda path: (-_checkpoint_step(path), path.name))
        raise ConfigError(f"{folder} has no model of its own; give one of the folders in it, such as {newest}")


def _checkpoint_step(checkpoint: Path) -> int:
    found = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(found[1]) if found else -1


def check_token():
    """`ConfigError` if the user's token is malformed: clients and their logs would quote it."""
    try:
        token = "" if constants.HF_HUB_OFFLINE else get_token() or ""
    except UnicodeDecodeError:  # its file is in another encoding
        token = "\0"
    if not (token.isascii() and token.isprintable()):
        raise ConfigError(
            "the Hub token contains characters that are not allowed; run `hf auth login`, or set HF_TOKEN again"
        )


def check_push_allowed():
    """`ConfigError` if nobody is logged in to the Hub, or if it is disabled by HF_HUB_OFFLINE."""
    if get_token() is None:
        raise ConfigError("you are not logged in to the Hub; run `hf auth login`, or set HF_TOKEN")
    if constants.HF_HUB_OFFLINE and not _unreachable_reason:
        raise ConfigError("HF_HUB_OFFLINE=1 disables pushing to the Hub; unset it, or do not push")


def check_model_name(name: str):
    """`ConfigError` if this is not a valid name for a model."""
    if not is_hub_name(name):
        raise ConfigError(
            f"{name!r} is not a valid model name (letters, digits, - _ and .); give NAME or USER/NAME as "
            "training.hub_model_id, or as --to"
        )
