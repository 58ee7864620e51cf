"""`push_folder`: a finished export to a hub, by the hub's ordinary client and with the user's own login."""

import json
from pathlib import Path
from typing import Any

from tima.errors import TimaError


def push_folder(folder: str | Path, repo: str, *, private: bool = True, force: bool = False, api: Any = None) -> str:
    """Upload an export and return its address.

    Args:
        folder: what `export_model` returned.
        repo: `owner/name` on the hub. Made if it is not there.
        private: make a new repository private; one that is there stays as it is.
        force: also into a repository that holds files already; its history keeps them.
        api: a `huggingface_hub.HfApi`, by default a fresh one with the login of this machine.

    Raises:
        TimaError: not an export, a repository that holds files, or the hub's own refusal.
    """
    folder = Path(folder)
    if not (folder / "tima_export.json").is_file():
        raise TimaError(f"{folder} is no finished export: it holds no tima_export.json. Make one with: tima export")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise TimaError(f"'{repo}' names no repository. Write owner/name.")
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    try:
        if api.repo_exists(repo):
            held = [name for name in api.list_repo_files(repo) if name != ".gitattributes"]
            if held and not force:
                raise TimaError(
                    f"{repo} holds files already ({', '.join(held[:3])}). Give another name, or --force to add to it. "
                    f"The export itself is whole, in {folder}."
                )
        else:
            api.create_repo(repo, private=private)
        digest = json.loads((folder / "tima_export.json").read_text(encoding="utf-8"))["weights_sha256"]
        info = api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message=f"Export by tima, weights {digest[:12]}")
    except TimaError:
        raise
    except Exception as error:  # no network, no login, no right: the client raises one kind for each
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TimaError(
            f"{repo} cannot be written: {first[:300]}. The export itself is whole, in {folder}. Is this machine logged in "
            "(hf auth login), with the right to write there?"
        ) from error
    return str(getattr(info, "commit_url", None) or f"https://huggingface.co/{repo}")
