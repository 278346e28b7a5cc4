"""The published weights that metrics need: what they are called, where they come from, and where they lie.

Nothing is fetched unasked. A file is looked for where it was said to be, then in the folder of
`LIGHTNING_AUDIO_WEIGHTS`, then in the caches of torch.hub and of the Hugging Face hub, where other programs leave
it. What is found is checked against the size and the SHA-256 that are known; what is not found is an error with all
that is needed to mend it.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

FOLDER_VARIABLE = "LIGHTNING_AUDIO_WEIGHTS"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Found:
    """A file of weights on this machine.  verified: it is the published one, by its hash."""

    path: Path
    sha256: str
    verified: bool


@dataclass(frozen=True)
class WeightsFile:
    """One published file.

    size (bytes) and sha256 are None where nobody could be sure of them.
    aliases: other names that programs give the same file.   repository: of the hub, where it is from there.
    """

    name: str
    file: str
    url: str
    licence: str
    size: int | None = None
    sha256: str | None = None
    aliases: tuple[str, ...] = ()
    repository: str | None = None

    def places(self) -> list[Path]:
        """Where the file is looked for, in this order."""
        hub = Path(torch.hub.get_dir())
        folders = [weights_folder(), hub / "checkpoints", hub]
        return [folder / name for folder in folders for name in (self.file, *self.aliases)]

    def present(self) -> Path | None:
        """Its path if it is on this machine, unchecked."""
        at = next((path for path in self.places() if path.is_file()), None)
        return at or (None if self.repository is None else _in_hub_cache([self.repository], self.file))

    def find(self, path: str | Path | None = None, *, any_weights: bool = False) -> Found:
        """The file, checked; FileNotFoundError that says how to get it, ValueError where it is another file.

        path: the file, or the folder it lies in.   any_weights: take what lies at `path` whatever its hash, as for
        weights of one's own; it then counts as not verified.
        """
        at = self.present() if path is None else self._given(Path(path).expanduser())
        if at is None or not at.is_file():
            raise FileNotFoundError(self.missing(None if path is None else at))
        return self.check(at, any_weights=any_weights and path is not None)

    def check(self, path: Path, *, any_weights: bool = False) -> Found:
        """ValueError where the file's size or hash is not the published one's."""
        size = path.stat().st_size
        if self.size not in (None, size) and not any_weights:
            raise ValueError(
                f"{path} has {size:,} bytes, the published {self.file} {self.size:,}: it is torn, or another file; "
                f"remove it and run `lightning-audio weights fetch {self.name}`"
            )
        found = sha256_of(path)
        if self.sha256 not in (None, found) and not any_weights:
            raise ValueError(
                f"{path} has the SHA-256 {found}, the published {self.file} {self.sha256}: a score made with it would "
                f"not be comparable; fetch the published file (`lightning-audio weights fetch {self.name}`), or "
                "say any_weights=True, and the card will say so"
            )
        return Found(path, found, verified=self.sha256 == found)

    def missing(self, at: Path | None = None) -> str:
        """What to say where the file is absent."""
        looked = at or ", ".join(sorted({str(path.parent) for path in self.places()}))
        return (
            f"the weights {self.name} are absent: {self.file} ({self.facts()}) was looked for in {looked}. With "
            f"internet, run `lightning-audio weights fetch {self.name}`; without, fetch {self.url} elsewhere and put "
            f"it at {weights_folder() / self.file}"
        )

    def facts(self) -> str:
        size = "size unknown" if self.size is None else f"{self.size:,} bytes"
        digest = "hash unknown" if self.sha256 is None else f"SHA-256 {self.sha256}"
        return f"{size}, {digest}, licence {self.licence}, from {self.url}"

    def fetch(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
        """The file in `folder`, downloaded unless it is there already, and checked."""
        target = folder / self.file
        if not target.is_file():
            download(self.url, target, check=self.check, progress=progress)
        self.check(target)
        return target

    def _given(self, path: Path) -> Path:
        if not path.is_dir():
            return path
        names = (self.file, *self.aliases)
        return next((path / name for name in names if (path / name).is_file()), path / self.file)


@dataclass(frozen=True)
class HubFolder:
    """Some files of a repository of the Hugging Face hub, kept in its own cache, which checks them itself.

    repositories: its names, the present one first (the hub renames, caches do not).
    """

    name: str
    repositories: tuple[str, ...]
    files: tuple[str, ...]
    licence: str

    def present(self) -> Path | None:
        """The folder if it is on this machine, with the first of its files at least."""
        own = weights_folder() / self.name
        if (own / self.files[0]).is_file():
            return own
        cached = _in_hub_cache(self.repositories, self.files[0])
        return None if cached is None else cached.parent

    def find(self, path: str | Path | None = None) -> Path:
        """The folder; FileNotFoundError that says how to get it."""
        at = self.present() if path is None else Path(path).expanduser()
        if at is None or not (at / self.files[0]).is_file():
            raise FileNotFoundError(self.missing(None if path is None else at))
        return at

    def missing(self, at: Path | None = None) -> str:
        """What to say where the folder is absent."""
        looked = at or f"{weights_folder() / self.name} and the hub's cache"
        return (
            f"{self.name} is absent: {', '.join(self.files)} ({self.facts()}) were looked for in {looked}. With "
            f"internet, run `lightning-audio weights fetch {self.name}`; without, fetch them elsewhere and put "
            f"them into {weights_folder() / self.name}"
        )

    def facts(self) -> str:
        return f"hash checked by the hub, licence {self.licence}, from huggingface.co/{self.repositories[0]}"

    def fetch(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
        """The files in `folder` / name, by the hub's own client."""
        from huggingface_hub import snapshot_download

        target = folder / self.name
        snapshot_download(self.repositories[0], allow_patterns=list(self.files), local_dir=target)
        return self.find(target)


def weights_folder() -> Path:
    """Where weights are fetched to: LIGHTNING_AUDIO_WEIGHTS, else a folder of the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "lightning_audio" / "weights"
    return Path(os.environ.get(FOLDER_VARIABLE, default)).expanduser()


def sha256_of(path: Path) -> str:
    """Of the file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(
    url: str,
    target: Path,
    *,
    check: Callable[[Path], object] = lambda path: None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes what is at `url` to `target`, which is whole or absent; goes on where an earlier attempt was cut.

    check: raises where the whole file is not what it should be; it is then thrown away.
    progress: is told (bytes that are here, bytes in all).
    """
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        _append(url, part, progress)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise OSError(f"cannot fetch {url}: {error}; what is here of it is kept, run it again") from error
    try:
        check(part)
    except ValueError:
        part.unlink()
        raise
    part.replace(target)


def _append(url: str, part: Path, progress: Callable[[int, int], None] | None) -> None:
    begun = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # asked for what is beyond the end: it was all here
            return
        raise
    with answer:
        resumed = answer.status == 206  # a server that knows no ranges sends the whole again
        done = begun if resumed else 0
        total = done + int(answer.headers.get("Content-Length", 0))
        with part.open("ab" if resumed else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
    if total > done:
        raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")


def _in_hub_cache(repositories: list[str] | tuple[str, ...], file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # slow to import

    found = (try_to_load_from_cache(repository, file) for repository in repositories)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _pann(rate: str, file: str, size: int | None = None, sha256: str | None = None) -> WeightsFile:
    quoted = file.replace("=", "%3D")
    return WeightsFile(
        f"pann-cnn14-{rate}",
        file,
        f"https://zenodo.org/record/3987831/files/{quoted}",
        "CC-BY-4.0",
        size,
        sha256,
        aliases=(quoted,),  # frechet-audio-distance keeps the name of the address
    )


def _clap(name: str, file: str, size: int | None = None, sha256: str | None = None) -> WeightsFile:
    repository = "lukewys/laion_clap"
    url = f"https://huggingface.co/{repository}/resolve/main/{file}"
    return WeightsFile(f"clap-{name}", file, url, "CC0-1.0", size, sha256, repository=repository)


def _passt(name: str, release: str, file: str) -> WeightsFile:
    url = f"https://github.com/kkoutini/PaSST/releases/download/{release}/{file}"
    return WeightsFile(f"passt-{name}", file, url, "Apache-2.0")


VGGISH = WeightsFile(
    "vggish",
    "vggish-10086976.pth",
    "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
    "Apache-2.0",
)
PANN_32K = _pann(
    "32k",
    "Cnn14_mAP=0.431.pth",
    327_428_481,
    "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31",
)
PANN_16K = _pann(
    "16k",
    "Cnn14_16k_mAP=0.438.pth",
    sha256="e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
)
PANN_8K = _pann("8k", "Cnn14_8k_mAP=0.416.pth")
CLAP_MUSIC = _clap(
    "music",
    "music_audioset_epoch_15_esc_90.14.pt",
    2_352_471_003,
    "fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd",
)
CLAP_MUSIC_SPEECH = _clap("music-speech", "music_speech_epoch_15_esc_89.25.pt")
CLAP_MUSIC_SPEECH_SOUND = _clap("music-speech-sound", "music_speech_audioset_epoch_15_esc_89.98.pt")
CLAP_630K_SOUND = _clap("630k-sound", "630k-audioset-best.pt")
CLAP_630K = _clap("630k", "630k-best.pt")
PASST_20S = _passt("20s", "v0.0.5", "passt-s-f128-20sec-p16-s10-ap.474-swa.pt")
PASST_10S = _passt("10s", "v0.0.1-audioset", "passt-s-f128-p16-s10-ap.476-swa.pt")
ROBERTA_TOKENIZER = HubFolder(
    "roberta-tokenizer", ("FacebookAI/roberta-base", "roberta-base"), ("vocab.json", "merges.txt"), "MIT"
)
AST = HubFolder(
    "ast",
    ("MIT/ast-finetuned-audioset-10-10-0.4593",),
    ("config.json", "model.safetensors", "preprocessor_config.json"),
    "BSD-3-Clause",
)

KNOWN: dict[str, WeightsFile | HubFolder] = {
    weights.name: weights
    for weights in (
        VGGISH,
        PANN_32K,
        PANN_16K,
        PANN_8K,
        CLAP_MUSIC,
        CLAP_MUSIC_SPEECH,
        CLAP_MUSIC_SPEECH_SOUND,
        CLAP_630K_SOUND,
        CLAP_630K,
        PASST_20S,
        PASST_10S,
        ROBERTA_TOKENIZER,
        AST,
    )
}
"""Everything that `lightning-audio weights` knows, by name."""
