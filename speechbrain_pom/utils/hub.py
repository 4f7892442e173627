"""Models on the Hugging Face hub: `hf://ORG/NAME@REVISION`, by the client of huggingface_hub.

Only data are fetched and pushed: safetensors, YAML, JSON, units and the model card, never a pickle.
The client finds its own settings: HF_ENDPOINT, HF_TOKEN or a stored login, HF_HOME, HF_HUB_OFFLINE.
"""

import os
import re
from pathlib import Path

from speechbrain_pom.utils.errors import UserError, one_line

PREFIX = "hf://"
DATA = ("*.safetensors", "*.yaml", "*.json", "pieces.model", "README.md")
_PLAIN_NAME = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_REPOSITORY = rf"{_PLAIN_NAME}/{_PLAIN_NAME}"
_ADDRESS = re.compile(rf"hf:/+(?P<repository>{_REPOSITORY})(?:@(?P<revision>[\w./-]+))?")


def is_address(path: str | Path) -> bool:
    """Whether something is an address on the hub, and not a path; a `Path` of one counts too.

    >>> is_address("hf://org/name"), is_address(Path("hf://org/name")), is_address("org/name")
    (True, True, False)
    """
    return str(path).startswith("hf:/")


def fetch_model(address: str | Path) -> Path:
    """The folder in the hub's cache with the data of a model.

    Arguments
    ---------
    address : str or pathlib.Path
        `hf://ORG/NAME`, perhaps with `@` and a branch, tag or commit.

    Returns
    -------
    pathlib.Path
        What is in the cache is not fetched again, and serves without a network.

    Raises
    ------
    UserError
        If it is no such address, or the model cannot be had.

    Example
    -------
    >>> fetch_model("hf://name")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: 'hf://name' is no model on the hub: give hf://ORG/NAME...
    """
    import huggingface_hub  # late: it takes part of a second

    found = _ADDRESS.fullmatch(str(address))
    if found is None:
        raise UserError(
            f"'{address}' is no model on the hub: give hf://ORG/NAME, or hf://ORG/NAME@REVISION "
            "with a branch, tag or commit"
        )
    try:
        folder = huggingface_hub.snapshot_download(
            found["repository"],
            revision=found["revision"],
            allow_patterns=list(DATA),
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except Exception as error:  # whatever the client and its HTTP library raise
        raise UserError(
            f"'{address}' cannot be fetched ({one_line(error)[:200]}): check the name, the "
            "network, and for a private model the login (hf auth login)"
        ) from error
    return Path(folder)


def check_repository(name: str) -> str:
    """The name of a model on the hub, ORG/NAME, if it can be one; else a `UserError`.

    >>> check_repository("org/name")
    'org/name'
    """
    if not re.fullmatch(_REPOSITORY, name):
        raise UserError(f"--push is {name!r}: give the model's name on the hub as ORG/NAME")
    return name


def push_model(folder: str | Path, repository: str, private: bool = False) -> str:
    """Push the data of a folder to the hub in one commit; the model is made if it is not there.

    Arguments
    ---------
    folder : str or pathlib.Path
        An export.
    repository : str
        ORG/NAME.
    private : bool
        For a model that is made.

    Returns
    -------
    str
        The address of this very commit, as `fetch_model` takes it.

    Raises
    ------
    UserError
        If it is no such name, or the hub refuses.
    """
    import huggingface_hub

    check_repository(repository)
    client = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        client.create_repo(repository, private=private or None, exist_ok=True)
        commit = client.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(DATA),
            delete_patterns=list(DATA),  # weights of another format would be read before these
            commit_message="Export by speechbrain-pom",
        )
    except Exception as error:
        raise UserError(
            f"'{repository}' cannot be pushed ({one_line(error)[:200]}): the export is in "
            f"'{folder}'; check the name, the network and the login (hf auth login)"
        ) from error
    return f"{PREFIX}{repository}@{commit.oid}"
