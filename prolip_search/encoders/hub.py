"""Released encoders from the Hugging Face hub, through its own client, cache and offline variables.

What is cached is used as it is, without asking the hub: a second load works offline and costs no
round trip. The commit that the files came from is the encoder's revision.
"""

from __future__ import annotations

import difflib
import errno
import re
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from prolip_search.encoders.checkpoint import ReleasedFolder
from prolip_search.encoders.tokenizers import CLIP_VOCABULARY
from prolip_search.errors import EncoderNotFound

__all__ = ["RELEASED_NAMES", "fetch_released", "looks_like_hub_id", "name_hint"]

FILES = ["config.json", "model.safetensors", "tokenizer.json"]
RELEASED_NAMES = (
    "SanghyukChun/ProLIP-ViT-B-16-DC-1B-12_8B",
    "SanghyukChun/ProLIP-ViT-L-16-FT-DC-1B-1_28B",
    "SanghyukChun/ProLIP-ViT-SO400M-14-FT-DC-1B-1_28B",
    "SanghyukChun/ProLIP-ViT-H-14-FT-DC-1B-1_28B",
    "SanghyukChun/LongProLIP-ViT-B-16-S24M",
    "SanghyukChun/LongProLIP-ViT-B-16-S128M",
    "SanghyukChun/LongProLIP-ViT-B-16-SHD128M",
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def looks_like_hub_id(name: str) -> bool:
    """Whether `name` has the form owner/repository."""
    return HUB_ID.fullmatch(name) is not None and not name.startswith(".")


def name_hint(name: str) -> str:
    """The released name that a misspelt one means, as a sentence; empty where none is near.

    The model cards themselves write …-12_8M and …-1_28M for what is …-12_8B and …-1_28B.
    """
    if name in RELEASED_NAMES:
        return ""
    by_lower = {known.lower(): known for known in RELEASED_NAMES}
    by_lower |= {known.lower().split("/")[1]: known for known in RELEASED_NAMES}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.8)
    return f" Did you mean {by_lower[close[0]]}?" if close else ""


def fetch_released(name: str, revision: str | None) -> tuple[ReleasedFolder, str]:
    """The files of a hub encoder and the commit they are from, downloaded unless cached.

    revision: a commit, branch or tag; None takes what is cached, or the newest. Raises
    EncoderNotFound: no such repository or revision, or offline and not cached.
    """
    folder = _fetch(name, revision)
    released = ReleasedFolder.open(folder)
    tokenizer_name = released.config.text.tokenizer_name
    by_package = released.config.text.vocab_size == CLIP_VOCABULARY
    if released.tokenizer is None and tokenizer_name is not None and not by_package:
        released = ReleasedFolder.open(folder, tokenizer=fetch_tokenizer(tokenizer_name))
    return released, folder.name  # the cache names a snapshot by its commit


def fetch_tokenizer(name: str) -> Path:
    """The tokenizer.json of a hub repository. Raises EncoderNotFound."""
    try:
        return Path(hf_hub_download(name, "tokenizer.json", local_files_only=True))
    except (OSError, ValueError):
        pass  # not cached
    try:
        return Path(hf_hub_download(name, "tokenizer.json"))
    except Exception as error:  # the classes of the HTTP library beneath have changed before
        raise _not_found(f"tokenizer {name}", error) from error


def _fetch(name: str, revision: str | None) -> Path:
    """The snapshot folder of an encoder, whole."""
    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=FILES, local_files_only=True)
        )
    except (OSError, ValueError):
        pass  # not cached
    else:
        if all((folder / file).is_file() for file in FILES[:2]):
            return folder  # and not what a broken download left
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except Exception as error:  # the classes of the HTTP library beneath have changed before
        raise _not_found(f"encoder {name}", error, name=name, revision=revision) from error


def _not_found(
    what: str, error: Exception, *, name: str | None = None, revision: str | None = None
) -> EncoderNotFound:
    """One sentence about why, one about what to do."""
    hint = name_hint(name) if name is not None else ""
    if isinstance(error, RevisionNotFoundError):
        return EncoderNotFound(f"The {what} has no revision {revision!r} on the hub.")
    if isinstance(error, RepositoryNotFoundError):
        return EncoderNotFound(f"There is no {what} on the hub, or it is private.{hint}")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return EncoderNotFound(f"The {what} on the hub lacks a file that it needs ({error}).")
    if isinstance(error, HFValidationError):
        return EncoderNotFound(f"{what} is not a name that the hub can have ({error}).{hint}")
    offline = constants.HF_HUB_OFFLINE or isinstance(error, OfflineModeIsEnabled)
    because = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
    if isinstance(error, HfHubHTTPError):
        because = f"the hub answered with an error: {error}"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
        because = f"the hub's cache cannot be written: {error}"
    return EncoderNotFound(
        f"The {what} is not in the local cache, and {because}.{hint} Fetch it once while online "
        f"(`hf download {what.split()[-1]}`), or name a folder with config.json, "
        "model.safetensors and tokenizer.json."
    )
