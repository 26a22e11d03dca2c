"""Publishes a run on the Hub: everything needed to load it anywhere, without paths and secrets of this machine.

    python -m publishing runs/demo                             as the model `demo` of the logged-in user
    python -m publishing runs/demo --to USER/NAME --private

Of an unfinished run, the newest valid checkpoint is published. Only listed files are uploaded (`snapshot.py`), with the
training state if the checkpoint is published as one; no pickles. Local paths and the token are removed from all texts.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from settings.checks import ConfigError
from storage import hub
from storage.files import read_mapping

from .snapshot import CARD, EXPERIMENT, MODEL, PROVENANCE, REMEDY, RUN, SNAPSHOT, published_model, snapshot


def push(there: Path, name: str, private: bool, replace: bool, revision: str | None = None) -> str:
    """Push a snapshot as the model `name`, USER/NAME or NAME, which is created if missing; return its address.

    `ConfigError` if the repository holds something else; `replace` allows another run. A card that was edited on the
    Hub is kept. `revision` is the branch to push to, made from the main one if there is none of that name.
    """
    repository = HfApi().create_repo(name, private=private or None, exist_ok=True).repo_id
    if revision is not None:
        HfApi().create_branch(repository, branch=revision, exist_ok=True)
    known = set(HfApi().list_repo_files(repository, revision=revision))
    about, before = _about(there), _about_published(repository, known, revision)
    if EXPERIMENT not in known and known - {".gitattributes", CARD}:
        raise ConfigError(f"{repository} holds something else already; publish under another name")
    if before and before.get("id") != about.get("id") and not replace:
        raise ConfigError(f"{repository} holds another run already; publish under another name, or with --replace")
    card = (there / CARD).read_text(encoding="utf-8")
    for own, there_called in _names(repository, revision).items():
        card = re.sub(own, there_called, card, count=1)
    (there / CARD).write_text(card, encoding="utf-8")
    (there / PROVENANCE).write_text(json.dumps(about | {"card": _hash(card)}, indent=2) + "\n", encoding="utf-8")
    subfolders = [f"{path.name}/*" for path in there.iterdir() if path.is_dir()]
    HfApi().upload_folder(
        repo_id=repository,
        revision=revision,
        folder_path=there,
        ignore_patterns=[] if _is_our_card(repository, known, before, revision) else [CARD],
        # files of an earlier state of the run
        delete_patterns=[*(name for name in MODEL | RUN if not (there / name).exists()), "model-*-of-*", *subfolders],
        commit_message=f"{Path(name).name} by Kindling",
    )
    return f"{constants.ENDPOINT}/{repository}" + (f"/tree/{revision}" if revision else "")


def _names(repository: str, revision: str | None) -> dict[str, str]:
    """Patterns where a card names its run, and their replacements for the Hub."""
    title, branch = repository.partition("/")[2], f', revision="{revision}"' if revision else ""
    return {
        r'model="(?:[^"\\]|\\.)*"': f'model="{repository}"{branch}',
        r"(?m)^# .*$": f"# {title}",
        r"(?m)^- name: .*$": f"- name: {title}",
    }


def _about(there: Path) -> dict:
    return read_mapping(there / PROVENANCE, REMEDY) if (there / PROVENANCE).exists() else {}


def _about_published(repository: str, known: set[str], revision: str | None) -> dict:
    """The provenance of the published run, if there is one."""
    remedy = "publish under another name"
    if PROVENANCE not in known:
        return {}
    return read_mapping(Path(hf_hub_download(repository, PROVENANCE, revision=revision)), remedy)


def _is_our_card(repository: str, known: set[str], before: dict, revision: str | None) -> bool:
    """Whether there is no card yet, or it is the one that was pushed last."""
    if CARD not in known:
        return True
    published = Path(hf_hub_download(repository, CARD, revision=revision))
    return _hash(published.read_text(encoding="utf-8")) == before.get("card")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def publish(
    folder: Path,
    name: str | None,
    private: bool,
    replace: bool,
    is_awaited: bool = False,
    revision: str | None = None,
    checkpoint: str | None = None,
) -> str:
    """Publish a run folder, one of its checkpoints by name, or a snapshot, to a branch of the repository.

    The default name and branch are those of the run's settings. `ConfigError` if that is not possible; the folder is
    checked before the Hub is contacted. With `is_awaited`, an unreachable Hub is not retried.
    """
    is_snapshot, settings = folder.name.startswith(SNAPSHOT), _settings(folder)
    model = folder if is_snapshot else published_model(folder, checkpoint)
    revision = revision or settings.get("hub_revision")
    hub.check_push_allowed()
    if is_awaited:
        hub.check_hub_reachable(f"{folder} is not published")
    if name is None:
        name = settings.get("hub_model_id") or folder.resolve().name
    private = private or bool(settings.get("hub_private_repo"))
    hub.check_model_name(name)
    there = folder if is_snapshot else snapshot(folder, model)
    try:
        return hub.with_retries(name, lambda: push(there, name, private, replace, revision), "published")
    finally:
        if not is_snapshot:
            shutil.rmtree(there)


def _settings(folder: Path) -> dict:
    """The section `training` of a run's settings."""
    path = folder / EXPERIMENT
    settings = read_mapping(path, REMEDY).get("training") if path.exists() else None
    return settings if isinstance(settings, dict) else {}


def set_http_timeout(seconds: float):
    """Set the timeout of Hub clients opened from now on; by default they have none."""

    def client():
        one = default_client_factory()
        one.timeout = seconds
        return one

    set_client_factory(client)
