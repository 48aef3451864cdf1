"""The tokenizer that a harvest was made with, recognized by its digest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harvest_assets.data.tokenization import load_tokenizer
from harvest_assets.data.vocabulary import Vocabulary, cached_tokenizer_file, tokenizer_file
from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import remove, temporary_beside
from harvest_assets.files.untrusted import text_of

_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class OpenedTokenizer:
    """A tokenizer that was found.

    Args:
        vocabulary: of the tokenizer.
        source: what `transformers` opens the same tokenizer by: a folder, or a name on the hub.
        warning: why it may be another one, as a sentence; None where that is known.
    """

    vocabulary: Vocabulary
    source: str
    warning: str | None


@dataclass(frozen=True)
class RecordedTokenizer:
    """The tokenizer of a harvest.

    Args:
        name: hub name or local path, as the run's config has it.
        folder: the absolute path it was opened at, if it was a local folder.
        sha256: digest of its vocabulary; None in harvests that recorded none.
    """

    name: str
    folder: str | None = None
    sha256: str | None = None

    @classmethod
    def in_use(cls, name: str) -> RecordedTokenizer:
        """The tokenizer that this name opens here, in this folder.

        Raises:
            HarvestError: there is none.
        """
        folder = str(Path(name).absolute()) if _is_folder(name) else None
        return cls(name, folder, Vocabulary.open(name).sha256)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> RecordedTokenizer:
        """The tokenizer that `config.json` names.

        Raises:
            KeyError, TypeError: it names none, or not by texts.
        """
        rest = (config.get(key) for key in ("tokenizer_path", "tokenizer_sha256"))
        folder, sha256 = (None if value is None else text_of(value) for value in rest)
        return cls(text_of(config["tokenizer_name"]), folder, sha256)

    def as_config(self) -> dict[str, str]:
        """As keys of `config.json`; what is not known is left out."""
        fields = {
            "tokenizer_name": self.name,
            "tokenizer_path": self.folder,
            "tokenizer_sha256": self.sha256,
        }
        return {key: value for key, value in fields.items() if value is not None}

    def keep(self, folder: Path) -> bool:
        """Store the tokenizer in a folder, unless it is there already.

        Returns:
            Whether it is there now; a tokenizer that is another one when it is read back is not.

        Raises:
            HarvestError: it cannot be loaded.
        """
        if self.is_in(folder):
            return True
        source = self.folder or self.name
        temporary = temporary_beside(folder)
        try:
            load_tokenizer(source).save_pretrained(temporary)
            original = tokenizer_file(source)
            if original is not None:  # the library writes its own version of it
                shutil.copyfile(original, temporary / original.name)
            if not self.is_in(temporary):
                return False
            remove(folder)
            temporary.rename(folder)
        finally:
            remove(temporary)
        return True

    def is_in(self, folder: Path) -> bool:
        """Whether a folder holds this tokenizer."""
        try:
            return Vocabulary.open(str(folder), download=False).sha256 == self.sha256
        except HarvestError:
            return False

    def open(self, kept: Path | None = None) -> OpenedTokenizer:
        """The tokenizer, from where it is kept, from where it was, from this folder, or a cache.

        The hub is not asked.

        Args:
            kept: the folder that `keep` stored it in.

        Raises:
            HarvestError: it is in none of these places; another one may be.
        """
        problems = []
        for source in self._sources(kept):
            try:
                vocabulary = Vocabulary.open(source, download=False)
            except HarvestError as error:
                if self.sha256 is None:
                    raise
                problems.append(str(error).rstrip("."))
                continue
            if self.sha256 is None or vocabulary.sha256 == self.sha256:
                return OpenedTokenizer(vocabulary, source, self._doubt(source))
            digest = vocabulary.sha256[:_SHOWN_DIGITS]
            problems.append(f"{source} holds a different tokenizer (digest {digest})")
        if self.sha256 is None:
            expected = ""
        else:
            where = "" if self.folder is None else f", from {self.folder}"
            expected = f" (digest {self.sha256[:_SHOWN_DIGITS]}{where})"
        raise HarvestError(
            f"The tokenizer {self.name[:500]!r} that this harvest was made with{expected} was not "
            f"found: {'; '.join(problems) or self._absence()}. Restore it, or read the harvest in "
            "a folder where its name refers to it."
        )

    def _sources(self, kept: Path | None) -> Iterator[str]:
        """Where the tokenizer may be, as folders and names that open it."""
        if kept is not None and self.sha256 is not None and kept.is_dir():
            yield str(kept)
        if self.folder is not None and _is_folder(self.folder):
            yield self.folder
        cached = cached_tokenizer_file(self.name)
        if _is_folder(self.name):
            if self._here != self.folder:
                yield self._here
            if cached is not None:
                yield str(cached.parent)
        elif self.folder is None or cached is not None:
            yield self.name

    @property
    def _here(self) -> str:
        return str(Path(self.name).absolute())

    def _absence(self) -> str:
        places = dict.fromkeys((str(self.folder), self._here))
        return f"there is no tokenizer in {' or in '.join(places)}"

    def _doubt(self, source: str) -> str | None:
        if self.sha256 is not None or source != self._here or Path(self.name).is_absolute():
            return None
        return (
            f"The tokenizer {self.name!r} was taken from {source}, the folder of this name in the "
            "current one; this harvest does not record whether it was made with that one."
        )


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False
