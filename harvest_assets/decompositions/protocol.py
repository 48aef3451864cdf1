"""What a kind of decomposition provides, so that everything above this folder can harvest it.

A decomposition divides a language model into components, layer by layer. For each position of a row
of tokens it computes

1. the model's next-token probabilities,
2. a *firing strength* of each component: it fires where this is strictly above `ci_threshold`,
3. for some kinds, a *second value* of each component, which examples show next to the first.

| kind | firing strength | second value |
|---|---|---|
| SPD (`spd/`) | causal importance | component activation |
| sparse autoencoder, transcoder (`dictionaries/`) | activation of the latent | none |
| your own model (`own_model/`) | what it returns | what it returns, if anything |

Everything else is the same for all kinds: the sum over positions, the files, the pages. Result
files and `Harvester.process_batch` call the two values by SPD's names, `ci` and `component_acts`;
without a second value, `component_acts` repeats the firing strength.

To add a kind:

1. Write a class with the members of `Decomposition`, in a folder of its own. An instance describes
   one run: paths, sizes and digests, no tensors. `spd/run_checkpoint.py` is an example.
2. `recognises` decides by a key or value of the run's config that only this kind has, or by the
   file's name.
3. `verify` opens the files completely, so that a fault is found before hours of work. `open_model`
   opens them in each shard, and refuses files that have changed since (`verified_files.py`).
4. `write` stores the instance as `run_checkpoint.json`, with its `kind` under that key; `open`
   reads it. Keys that are added later need a default.
5. Add the class to `registry.KINDS`, before SPD.
6. Test the model against formulas, and a whole harvest as `test_protocol.py` does.

The files of a run are found by `wandb_client/run_files.py`: its `final_config.yaml` and one file of
weights, or a `dictionaries.yaml` that names all others. They may come from anybody, so nothing in
them is executed, and whatever is wrong with them raises `HarvestError`. Importing a kind's module
must load neither torch, transformers nor datasets.

A model is a pure function: a group of rows gives the same values to the last bit whenever it is
computed. It fills the columns of all layers in one call, so a CI function or a dictionary that
spans several layers needs no special support.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from harvest_assets.errors import HarvestError

# Enough tokens at once for matrix products to run at full speed, few enough for the outputs of most
# models to fit.
TOKENS_PER_FORWARD = 8192
_MIN_TOKENS_PER_FORWARD = 256
_MAX_VALUES_PER_FORWARD = 1 << 30  # float32: 4 GiB

if TYPE_CHECKING:
    import torch

    from harvest_assets.data.data import DataSpec
    from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
    from harvest_assets.harvester.stream import Activations
    from harvest_assets.wandb_client.run_files import RunFiles


def matching_layers(
    layers: Sequence[tuple[str, int]],
    patterns: Sequence[str] | None,
    whole: Literal["run", "harvest"] = "run",
) -> tuple[tuple[str, int], ...]:
    """The layers whose names match one of the patterns, in flat order.

    Args:
        layers: (name, number of components).
        patterns: as of `fnmatch`; `*` matches dots too. None: all layers.
        whole: what has these layers.

    Raises:
        HarvestError: a pattern matches no layer.
    """
    if patterns is None:
        return tuple(layers)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in layers):
            names = ", ".join(name for name, _ in layers)
            raise HarvestError(
                f"--layers {pattern!r} matches no layer of the {whole}; its layers are {names}."
            )
    return tuple(it for it in layers if any(fnmatchcase(it[0], each) for each in patterns))


@runtime_checkable
class Decomposition(Protocol):
    """The verified files of one run.

    Attributes:
        kind: name of the kind, as in `run_checkpoint.json`.
    """

    kind: ClassVar[str]

    @property
    def firing_strength(self) -> str:
        """What the firing strength is, in words."""

    @property
    def second_value(self) -> str | None:
        """What the second value is, in words; None if there is none."""

    @property
    def run(self) -> str:
        """Key of the run: `entity/project/run_id`."""

    @property
    def sha256(self) -> str:
        """Digest of the files that determine the model; equal for states that add up."""

    @property
    def step(self) -> int | None:
        """Training steps of the checkpoint, if its name says."""

    @property
    def config_path(self) -> str:
        """The run's config file."""

    @property
    def checkpoint_path(self) -> str:
        """The file of weights; results name it."""

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """(name, number of components) of each layer, in flat order."""

    @property
    def n_components(self) -> int:
        """Components of all layers."""

    @property
    def vocab_size(self) -> int:
        """Width of the model's logits."""

    @property
    def max_context_length(self) -> int | None:
        """Tokens of the longest row that the model can read; None if there is no limit."""

    @property
    def default_context_length(self) -> int:
        """Tokens of a row unless the harvest asks for another length."""

    @property
    def default_ci_threshold(self) -> float:
        """What replaces the default of `ci_threshold`; a harvest may ask for another value."""

    @property
    def tokens_per_forward(self) -> int:
        """Tokens that the model computes together, about: a function of its shape alone.

        Last bits depend on it, so it must not follow from what is free on a machine.
        """

    @property
    def extra_bytes_per_token(self) -> int:
        """Memory for each token of a group, beside what the model returns and its logits."""

    @property
    def weight_bytes(self) -> int:
        """Memory that the model's weights take, without opening them."""

    @property
    def tokenizer(self) -> RecordedTokenizer:
        """The tokenizer of the run, as it was when the run was verified."""

    @property
    def tokenizer_vocab_size(self) -> int:
        """The tokenizer's highest id plus one, without added tokens."""

    def is_of(self, files: RunFiles) -> bool:
        """Whether these are the files that were verified, unchanged."""

    def restricted(self, patterns: Sequence[str] | None) -> Self:
        """The same run with only the layers whose names match; see `matching_layers`."""

    def data_spec(self, context_length: int | None) -> DataSpec:
        """Where the rows come from.

        Args:
            context_length: tokens of a row; None for `default_context_length`.

        Raises:
            HarvestError: the length is below 1.
        """

    def options(self) -> frozenset[str]:
        """Which of `ci_noise` and `bf16` change the model; the others are off in every plan."""

    def notes(self) -> list[str]:
        """Sentences for readers of the results, stored in `config.json`."""

    def warnings(self, ci_threshold: float, context_length: int) -> list[str]:
        """Sentences for whoever starts a harvest with these settings; they include the notes."""

    def as_config(self) -> dict[str, Any]:
        """Further keys of `config.json`, with JSON values; kinds other than SPD give `kind`."""

    def model_name(self) -> str:
        """The model that was decomposed, in words."""

    def open_model(
        self, device: str | torch.device, *, ci_noise: bool = False, bf16: bool = False
    ) -> Callable[[torch.Tensor], Activations]:
        """The model, which maps tokens int64 [B, S] to their `Activations`.

        Args:
            device: where to compute.
            ci_noise: add the noise of training to the firing strength.
            bf16: compute matrix products in bfloat16.

        Raises:
            HarvestError: the files are not the ones that were verified.
        """

    def write(self, directory: Path) -> None:
        """Write `run_checkpoint.json` into a directory."""

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Read `run_checkpoint.json`.

        Raises:
            HarvestError: it is not a description of this kind.
        """

    @classmethod
    def recognises(cls, config: Path) -> bool:
        """Whether a config file is of this kind; False where it cannot be read."""

    @classmethod
    def check_config(cls, config: Path) -> None:
        """Check a config file alone, before the weights are downloaded.

        Raises:
            HarvestError: a run with this config cannot be harvested.
        """

    @classmethod
    def verify(cls, files: RunFiles) -> Self:
        """Open the files of a run and check that they make a model.

        Raises:
            HarvestError: they do not.
        """


def tokens_that_fit(values: int) -> int:
    """Tokens that are computed together, fewer where each takes many `values` in memory."""
    tokens = TOKENS_PER_FORWARD
    while tokens > _MIN_TOKENS_PER_FORWARD and tokens * values > _MAX_VALUES_PER_FORWARD:
        tokens //= 2
    return tokens


def check_row_length(tokens: torch.Tensor, limit: int | None) -> None:
    """Check that a target can read rows of tokens [B, S].

    Raises:
        HarvestError: they are longer than the limit.
    """
    if limit is not None and tokens.shape[1] > limit:
        raise HarvestError(
            f"Rows of {tokens.shape[1]} tokens are longer than the target's {limit}."
        )


@runtime_checkable
class MayBeUnrepeatable(Protocol):
    """A decomposition that may be unable to compute the same again; a kind may lack this."""

    @property
    def repeatable(self) -> bool:
        """Whether what it computes at another time belongs to the same harvest."""


def is_repeatable(decomposition: Decomposition) -> bool:
    """Whether a harvest can be divided, resumed and extended."""
    return not isinstance(decomposition, MayBeUnrepeatable) or decomposition.repeatable


@runtime_checkable
class HasTokenEmbeddings(Protocol):
    """A decomposition that also gives the embeddings of tokens; a kind may lack them."""

    def token_embeddings(self) -> torch.Tensor:
        """The embedding of each token, [vocab, width].

        Raises:
            HarvestError: the files are not the ones that were verified, or have no such matrix.
        """


@runtime_checkable
class HasMaskedForward(Protocol):
    """A model, as `open_model` returns it, whose components can be taken out; a kind may lack this.

    The weight of a decomposed layer is the sum of its components and of a rest that none of them
    explains. Biases, and layers that the decomposition leaves out, stay as they are.
    """

    def masked(
        self, tokens: torch.Tensor, mask: torch.Tensor | None, *, with_rest: bool
    ) -> torch.Tensor:
        """Log-probabilities of next tokens, float32 [B, S, vocab], of components times a mask.

        With the rest and a mask of ones they are those of the target.

        Args:
            tokens: int64 [B, S], below the vocabulary's size.
            mask: what each component is multiplied by, [C] or [B, S, C] in flat order; None for
                the target itself.
            with_rest: whether the rest takes part.

        Raises:
            HarvestError: the rows are longer than the target can read, or the mask does not fit.
        """
