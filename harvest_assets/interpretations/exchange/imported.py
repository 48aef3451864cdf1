"""What was read from a file of another program."""

from __future__ import annotations

from dataclasses import dataclass, field

from harvest_assets.interpretations.entries import MAX_LABEL, MAX_REASON, Entry, Label, Source

_MARK = "..."


@dataclass
class Imported:
    """The entries in a file.

    Args:
        author: for entries whose file does not name one: a person, or the file.
        source: of labels for which the file does not say.
        entries: as far as they have been read.
        ignored: names of columns or tables that mean nothing here.
        confidence_in_words: the confidences are those of words, rougher than what may be known.
    """

    author: str
    source: Source = "import"
    entries: list[Entry] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    confidence_in_words: bool = False

    def add_label(
        self,
        key: str,
        text: str,
        *,
        confidence: float | None = None,
        reason: str = "",
        source: Source | None = None,
        author: str = "",
    ) -> None:
        """Add a label. One that is too long is cut; its whole text begins the reason.

        Raises:
            HarvestError: it is not valid.
        """
        text = text.strip()
        if len(text) > MAX_LABEL:
            reason = f"{text}\n\n{reason}"
            text = _cut(" ".join(text.split()), MAX_LABEL)
        reason = _cut(reason.strip(), MAX_REASON)
        self.entries.append(
            Label(key, text, confidence, reason, source or self.source, author or self.author)
        )

    def keep_last_labels(self) -> list[Label]:
        """Leave out the labels of a component, by people or by others, except the last.

        Returns:
            The last label for each one that was left out and differs from it.
        """
        last = {_rank(entry): entry for entry in self.entries if isinstance(entry, Label)}
        earlier = [it for it in self.entries if isinstance(it, Label) and it is not last[_rank(it)]]
        left_out = set(map(id, earlier))
        self.entries = [it for it in self.entries if id(it) not in left_out]
        kept = [(it, last[_rank(it)]) for it in earlier]
        return [winner for label, winner in kept if label.label != winner.label]


def _rank(label: Label) -> tuple[str, bool]:
    return label.component_key, label.source == "person"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(_MARK)] + _MARK
