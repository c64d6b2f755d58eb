"""Where a pretrained model lies: a folder here, or the copy that the Hugging Face Hub gives."""

from pathlib import Path

from refocus_video.assets import HAYSTACK_TINY
from refocus_video.errors import CheckpointError, did_you_mean, one_line

CONFIG_FILE = "config.json"
TEXT_FILES = ("*.json", "*.txt", "*.model")


def check_name(name: str | Path, wanted: str) -> None:
    """Refuse what is neither a folder that exists nor written as a hub id ``owner/name``; nothing is fetched or read.

    Raises:
        CheckpointError: when it is neither.
    """
    text = str(name)
    # A hub id is `owner/name`; anything else can only be meant as a folder.
    as_folder = isinstance(name, Path) or text.count("/") != 1 or text.startswith((".", "/", "~"))
    if as_folder and not Path(name).expanduser().is_dir():
        near = did_you_mean(name, [HAYSTACK_TINY])
        raise CheckpointError(
            f"no {wanted} at {name}{near}; give a folder with a {CONFIG_FILE}, or a hub id owner/name"
        )


def local_folder(name: str | Path, wanted: str, patterns: tuple[str, ...] = (), revision: str | None = None) -> Path:
    """A folder, or where the hub's copy of ``owner/name`` lies once it is downloaded.

    Args:
        name: a folder or a hub id.
        wanted: what is looked for, named in errors.
        patterns: files to download; when empty, the weights and all that is text.
        revision: branch, tag or commit on the hub.

    Raises:
        CheckpointError: when there is no such folder and the hub does not give one.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    text = str(name)
    check_name(name, wanted)
    found = _download(text, patterns or (*TEXT_FILES, "*.safetensors"), wanted, revision)
    if not patterns and not any(found.glob("*.safetensors")):
        found = _download(text, (*TEXT_FILES, "pytorch_model*.bin"), wanted, revision)
    return found


def _download(name: str, patterns: tuple[str, ...], wanted: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except LocalEntryNotFoundError:  # no network, or told to do without
        raise CheckpointError(
            f"no {wanted}: could not reach the Hugging Face Hub, and {name!r} is neither a folder here nor kept from an "
            f"earlier download; give a local folder, or run `hf download {name}` where there is a network"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"no {wanted}: no folder {name!r} here, and the Hugging Face Hub did not give it either; give a local "
            f"folder, or run `hf download {name}` where there is a network ({one_line(error)})"
        ) from error
