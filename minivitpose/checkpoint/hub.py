"""Weights from the Hugging Face hub: hf:OWNER/NAME, hf:OWNER/NAME@REVISION, hf:OWNER/NAME/path/to/file.pth.

The download, its cache (HF_HOME, HF_HUB_CACHE), its progress bars and the log-in are those of huggingface_hub, which
is optional. Only what a model needs is fetched, and what was fetched is checked against the hub's checksum.
Source: https://huggingface.co/docs/huggingface_hub/guides/download and .../guides/manage-cache.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from minivitpose.checkpoint.errors import CheckpointError, printable, quoted
from minivitpose.checkpoint.folder import MODEL_FILES, check_index
from minivitpose.checkpoint.mapped import map_file

SCHEME = "hf:"
FORM = "hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME/path/in/the/repository.pth"
WORD = r"[A-Za-z0-9](?:[\w.-]*[\w])?"  # as the hub's own rule for names, see also `parse`
REFERENCE = re.compile(rf"hf:({WORD}/{WORD})(?:@(refs/(?:pr|convert)/[\w.-]+|[\w.+-]+))?(?:/(.+))?", re.ASCII)

SETTINGS = ("config.json", "preprocessor_config.json")
COMMIT = re.compile("[0-9a-f]{40}")
LOADABLE = (".safetensors", ".pth", ".pt", ".bin", ".npz", ".ckpt", ".tar")
INDEX = ".index.json"
LONGEST = 400  # characters of a name
TIMEOUT = 10  # seconds for the hub's answer, as huggingface_hub has it


@dataclass(frozen=True)
class Reference:
    """A model on the hub. path: a file or folder in the repository, "" is all of it. revision: branch, tag or commit.

    endpoint, cache_dir: None is huggingface_hub's own. str() is how the user writes it.
    """

    repository: str
    revision: str = "main"
    path: str = ""
    endpoint: str | None = None
    cache_dir: str | None = None

    def __str__(self):
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"{SCHEME}{self.repository}{revision}" + (f"/{self.path}" if self.path else "")

    @property
    def host(self):
        return self.endpoint or "https://huggingface.co"

    @property
    def page(self):
        """Where a person finds the files."""
        return f"{self.host}/{self.repository}/tree/{self.revision}"


@dataclass(frozen=True)
class Listing:
    """The names of one commit's files, and what gives the path of a local copy of one."""

    files: list[str]
    get: Callable[[str], str]


def is_hub(source):
    """Whether this names something on the hub."""
    return isinstance(source, str) and source.startswith(SCHEME)


def fetch(source, endpoint=None, cache_dir=None):
    """The local path of what ``source`` names: of a file, or of a folder for a whole repository or a folder in it.

    source: "hf:OWNER/NAME[@REVISION][/PATH]". Of a repository or folder: config.json, preprocessor_config.json and the
    weights as model.safetensors or in shards by their index (pytorch_model.bin where there is nothing else). What is
    cached is not fetched again, and serves without a network.
    endpoint: the hub's address, else HF_ENDPOINT, else https://huggingface.co. cache_dir: else huggingface_hub's.
    Raises CheckpointError, in one line, for a malformed name, something that the hub does not have or does not give,
    no network and nothing cached, a damaged download, or huggingface_hub not installed.
    """
    hub = installed(source)
    reference = parse(source, endpoint or os.environ.get("HF_ENDPOINT", "").rstrip("/") or None, cache_dir)
    try:
        listing = on_the_hub(hub, reference)
    except CheckpointError as no_answer:
        try:
            return collect(reference, in_the_cache(hub, reference))[0]
        except CheckpointError:
            raise no_answer from None
    target, paths = collect(reference, listing)
    point(hub, reference, paths)
    return target


def installed(source):
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(
            f"{quoted(source)} needs the package huggingface_hub",
            fix="pip install 'minivitpose[hub]', or download the file by hand and give its path",
        ) from None
    return huggingface_hub


def parse(source, endpoint=None, cache_dir=None):
    """The Reference that this text is. Raises CheckpointError for one that cannot be meant."""
    match = REFERENCE.fullmatch(source)
    repository, revision, path = match.groups("") if match else ("", "", "")
    path = path.rstrip("/")
    parts = path.split("/") if path else []
    bad = not match or len(source) > LONGEST or any(double in repository + revision for double in ("..", "--"))
    bad = bad or any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable()
    if bad:
        raise CheckpointError("this names nothing on the hub", expected=FORM, found=quoted(source))
    return Reference(repository, revision or "main", path, endpoint, cache_dir)


# ------------------------------------------------------------------------------------------------- on the hub or cached


def on_the_hub(hub, reference):
    """The Listing of what the hub has now. Raises CheckpointError if it does not say."""
    api = hub.HfApi(endpoint=reference.endpoint)
    options = {"revision": reference.revision, "files_metadata": True, "timeout": TIMEOUT}
    info = ask(reference, api.model_info, reference.repository, **options)
    if not COMMIT.fullmatch(str(info.sha)):
        raise CheckpointError(f"{reference}: {reference.host} did not answer as the hub does", fix=by_hand(reference))
    checksums = {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in info.siblings or ()}
    return Listing(list(checksums), partial(download, hub, reference, info.sha, checksums))


def in_the_cache(hub, reference):
    """The Listing of what is cached of it, perhaps of nothing."""
    options = {"revision": reference.revision, "cache_dir": reference.cache_dir, "local_files_only": True}
    try:
        folder = hub.snapshot_download(reference.repository, allow_patterns="config.json", **options)
    except Exception:  # whatever the reason, there is no copy to use
        return Listing([], str)
    paths = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    paths = [path for path in paths if os.path.exists(path)]  # not so for a link whose target is gone
    names = [os.path.relpath(path, folder).replace(os.sep, "/") for path in paths]
    return Listing(names, partial(os.path.join, folder))


def download(hub, reference, commit, checksums, name):
    """The path of this file in the cache, fetched and checked if it was not there."""
    place = {"revision": commit, "cache_dir": reference.cache_dir}
    cached = hub.try_to_load_from_cache(reference.repository, name, **place)
    if isinstance(cached, str):
        return cached
    options = place | {"endpoint": reference.endpoint, "etag_timeout": TIMEOUT}
    path = ask(reference, hub.hf_hub_download, reference.repository, name, **options)
    expected = checksums[name]
    if expected and digest(path, expected) != expected:
        for file in {os.path.realpath(path), path}:  # or the next call would take it for right
            os.remove(file)
        raise CheckpointError(f"{reference}: {name} came damaged: it has not the hub's checksum", fix="try again later")
    return path


def digest(path, like):
    """The file's own checksum of the same kind: SHA-256 of large files, git's SHA-1 of a blob for the others."""
    size = os.path.getsize(path)
    found = hashlib.sha256() if len(like) == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def point(hub, reference, paths):
    """Note in the cache that the branch is at this commit, now that its files are whole: it then serves offline."""
    first, path = next(iter(paths.items()))
    options = {"revision": reference.revision, "cache_dir": reference.cache_dir}
    if hub.try_to_load_from_cache(reference.repository, first, **options) != path:
        options |= {"endpoint": reference.endpoint, "etag_timeout": TIMEOUT}
        ask(reference, hub.hf_hub_download, reference.repository, first, **options)


# ------------------------------------------------------------------------------------------------------- what is needed


def collect(reference, listing):
    """(path of the file or folder that was named, name -> path of every file that it needs)."""
    name, files = reference.path, listing.files
    folder = "".join(name.rpartition("/")[:2]) if name in files else name + "/" * bool(name)
    weights = name if name in files else next((folder + m for m in MODEL_FILES if folder + m in files), None)
    if weights is None:
        raise CheckpointError(nothing(reference, files, folder))
    paths = {folder + s: listing.get(folder + s) for s in SETTINGS if folder + s in files}
    paths[weights] = listing.get(weights)
    if weights.endswith(INDEX):
        for shard in shards(reference, paths[weights], weights):
            if folder + shard not in files:
                raise CheckpointError(f"{reference}: {weights} names {quoted(shard)}, which is not beside it")
            paths[folder + shard] = listing.get(folder + shard)
    path = paths[weights]
    return (path if name in files else os.path.dirname(path)), paths


def shards(reference, path, name):
    """The names of the files that an index lists, each once."""
    try:
        return sorted(set(check_index(map_file(path)).values()))
    except CheckpointError as error:
        raise CheckpointError(f"{reference}: {name}: {error}") from None


def nothing(reference, files, folder):
    """Why nothing can be loaded from there, and what could be."""
    inside = [file for file in files if file.startswith(folder)]
    loadable = [file for file in inside or files if file.endswith(LOADABLE)]
    if reference.path and not inside:
        problem = f"{reference}: there is no {quoted(reference.path)} in {reference.repository}"
    else:
        problem = f"{reference}: there is no {MODEL_FILES[0]}"
    if not loadable:
        others = ", ".join(quoted(file, 60) for file in sorted(inside or files)[:5])
        return f"{problem}, nor another file of weights; it has {others or 'no files'}"
    more = f" and {len(loadable) - 6} more" if len(loadable) > 6 else ""
    named = ", ".join(printable(file, 80) for file in sorted(loadable)[:6])
    one = Reference(reference.repository, reference.revision, sorted(loadable)[0])
    return f"{problem}; it has {named}{more}: name one, as in {one}"


# --------------------------------------------------------------------------------------------------------------- errors


def ask(reference, call, *arguments, **options):
    """``call(...)``, with whatever it raises as a CheckpointError that says what to do.

    Any exception: what a lost connection raises depends on the HTTP library under huggingface_hub, of which its
    versions had three.
    """
    from huggingface_hub import errors

    try:
        return call(*arguments, **options)
    except errors.GatedRepoError:
        problem, fix = "is gated: its owner gives it to those who ask", f"ask at {reference.page}, then {LOGIN}"
    except errors.RepositoryNotFoundError:
        problem, fix = f"{reference.host} has no such repository, or it is private", f"check the name, or {LOGIN}"
    except errors.RevisionNotFoundError:
        problem, fix = f"there is no revision {quoted(reference.revision)} of it", f"see {reference.host}"
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        problem, fix = f"{reference.host} answered {status} ({brief(error)})", by_hand(reference)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
        problem = f"cannot fetch it from {reference.host} ({type(cause).__name__}: {brief(cause)})"
        fix = by_hand(reference)
    raise CheckpointError(f"{reference}: {problem}", fix=fix)


LOGIN = "log in with `hf auth login` or set HF_TOKEN"


def by_hand(reference):
    return f"no whole copy is cached; try again, or download it by hand from {reference.page} and give its path"


def brief(error):
    """The first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0], 200) if lines else "no reason given"
