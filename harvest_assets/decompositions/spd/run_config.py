"""`final_config.yaml` of an SPD run: the keys that matter for a harvest, typed and checked."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from harvest_assets.data.data import DataSpec
from harvest_assets.decompositions.spd.ci_config import GlobalCI
from harvest_assets.decompositions.spd.old_spellings import current_config, own_names
from harvest_assets.errors import HarvestError
from harvest_assets.files.yaml_file import read_mapping, validated

PRE_IDENTITY = "pre_identity"  # an identity layer is `<module>.pre_identity`

_MIN_THRESHOLD_OF_NORMAL = 0.01

# Wider than any model, yet quick to refuse.
_MAX_WIDTH = 1 << 24
_MAX_PATTERNS = 4096
_Width = Annotated[int, pydantic.Field(gt=0, le=_MAX_WIDTH)]

SigmoidType = Literal["leaky_hard", "hard", "normal", "upper_leaky_hard", "swish_hard", "half_sin"]


class _Section(pydantic.BaseModel):
    """A part of the config; keys that do not matter to a harvest are ignored."""

    model_config = pydantic.ConfigDict(
        extra="ignore", frozen=True, protected_namespaces=(), str_max_length=1000
    )


class ModuleInfo(_Section):
    """Which modules of the target are decomposed, and into how many components each."""

    module_pattern: str
    C: int = pydantic.Field(gt=0, le=_MAX_WIDTH)


class DataConfig(_Section):
    """`task_config`: the data that the run was trained on."""

    task_name: str
    max_seq_len: int = pydantic.Field(default=512, gt=0, le=_MAX_WIDTH)
    buffer_size: int = pydantic.Field(default=1000, gt=0, le=_MAX_WIDTH)
    dataset_name: str = "lennart-finke/SimpleStories"
    column_name: str = "story"
    train_data_split: str = "train"
    shuffle_each_epoch: bool = True
    is_tokenized: bool = False
    streaming: bool = False
    dataset_seed: int | None = pydantic.Field(default=None, ge=0, lt=1 << 63)

    def spec(
        self,
        dataset_name: str,
        tokenizer_name: str,
        seed: int,
        context_length: int | None,
        *,
        special_tokens: bool = True,
    ) -> DataSpec:
        """The rows that these settings describe.

        Args:
            dataset_name: where the dataset is.
            tokenizer_name: of text.
            seed: of the run, where the data have none of their own.
            context_length: tokens of a row; None: as in training.
            special_tokens: whether text gets the special tokens that the tokenizer adds by itself.

        Raises:
            HarvestError: `context_length` is below 1.
        """
        if context_length is not None and context_length < 1:
            raise HarvestError(f"context_length is {context_length}; a row has at least one token.")
        return DataSpec(
            dataset_name=dataset_name,
            train_data_split=self.train_data_split,
            column_name=self.column_name,
            is_tokenized=self.is_tokenized,
            streaming=self.streaming,
            buffer_size=self.buffer_size,
            shuffle_each_epoch=self.shuffle_each_epoch,
            seed=seed if self.dataset_seed is None else self.dataset_seed,
            tokenizer_name=tokenizer_name,
            n_ctx=self.max_seq_len if context_length is None else context_length,
            special_tokens=special_tokens,
        )


class RunConfig(_Section):
    """What a harvest needs to know of the run."""

    seed: int = pydantic.Field(default=0, ge=0, lt=1 << 63)
    module_info: tuple[ModuleInfo, ...] = pydantic.Field(min_length=1, max_length=_MAX_PATTERNS)
    identity_module_info: tuple[ModuleInfo, ...] | None = pydantic.Field(
        default=None, max_length=_MAX_PATTERNS
    )
    ci_fn_type: str = "vector_mlp"
    ci_fn_hidden_dims: tuple[_Width, ...] = pydantic.Field(default=(8,), max_length=100)
    global_ci: GlobalCI | None = None  # instead of one CI function a layer
    sigmoid_type: SigmoidType = "leaky_hard"
    sampling: Literal["continuous", "binomial"] = "continuous"
    pretrained_model_class: str
    pretrained_model_name: str | None = None
    pretrained_model_path: str | None = None
    pretrained_model_output_attr: str | None = None
    target_weights_dtype: Literal["float32", "bfloat16"] = "float32"
    tokenizer_name: str
    task_config: DataConfig
    special_tokens: bool = True
    notes_on_age: tuple[str, ...] = ()

    @property
    def decomposed_modules(self) -> tuple[ModuleInfo, ...]:
        """The patterns of all decomposed modules, identity layers last."""
        identities = (
            ModuleInfo(module_pattern=f"{info.module_pattern}.{PRE_IDENTITY}", C=info.C)
            for info in self.identity_module_info or ()
        )
        return (*self.module_info, *identities)

    @property
    def notes(self) -> list[str]:
        """Sentences on how the run's config was read, for whoever reads the results."""
        notes = list(self.notes_on_age)
        if self.target_weights_dtype == "bfloat16":
            notes.append(
                "The run's target.weights_dtype is bfloat16: its training computed the target in "
                "bfloat16. It is computed in float32 here, so causal importances differ slightly."
            )
        data = self.task_config
        if not data.streaming and "shuffle_each_epoch" not in data.model_fields_set:
            notes.append(
                "The run's task_config has no shuffle_each_epoch: the run is older than that key, "
                "and its training did not shuffle the rows of tokens again. It is read as true, "
                "which gives the rows in another order; add shuffle_each_epoch: false for that of "
                "the training."
            )
        return notes

    def warnings(self, ci_threshold: float, context_length: int) -> list[str]:
        """Sentences that whoever starts a harvest with these settings should read."""
        found = (self.threshold_warning(ci_threshold), self._length_warning(context_length))
        return [*self.notes, *(warning for warning in found if warning is not None)]

    def _length_warning(self, context_length: int) -> str | None:
        """A sentence for whoever asks for rows of another length, where that changes CI."""
        reads_rows = self.global_ci is not None and self.global_ci.reads_whole_rows
        if not reads_rows or context_length == self.task_config.max_seq_len:
            return None
        return (
            "The run's CI function reads whole rows: with a context_length of "
            f"{context_length} instead of the training's {self.task_config.max_seq_len}, causal "
            "importances differ from those of the training."
        )

    def threshold_warning(self, ci_threshold: float) -> str | None:
        """A warning where the threshold would make components fire everywhere, else None."""
        if self.sigmoid_type != "normal" or ci_threshold >= _MIN_THRESHOLD_OF_NORMAL:
            return None
        return (
            "The run's sigmoid_type is 'normal', under which causal importances are never 0: above "
            f"a ci_threshold of {ci_threshold:g} almost every component fires at every position. "
            "Consider a --ci_threshold such as 0.5."
        )

    def data_spec(self, context_length: int | None) -> DataSpec:
        """The data of the run, in rows of `context_length` tokens (None: as long as in training).

        Raises:
            HarvestError: `context_length` is below 1.
        """
        return self.task_config.spec(
            self.task_config.dataset_name,
            self.tokenizer_name,
            self.seed,
            context_length,
            special_tokens=self.special_tokens,
        )

    @property
    def target_name(self) -> str:
        """Hub name, local path or `wandb:` name of the target; the name wins over the path."""
        return self.pretrained_model_name or self.pretrained_model_path or ""


def load_run_config(path: Path) -> RunConfig:
    """Read and check a run's config, also where it spells keys as older and newer runs did.

    Raises:
        HarvestError: the file is unreadable, no YAML, lacks a key, holds a wrong value, or its
            task is not `lm`.
    """
    written = read_mapping(path)
    raw = current_config(path, written)
    task = raw.get("task_config")
    task_name = task.get("task_name") if isinstance(task, dict) else None
    if task_name != "lm":
        raise HarvestError(
            f"{path}: task_name is {reprlib.repr(task_name)}; only 'lm' runs can be harvested."
        )
    config = validated(path, raw, RunConfig, own_names(path, written))
    if not (config.pretrained_model_name or config.pretrained_model_path):
        raise HarvestError(
            f"{path}: neither pretrained_model_name nor pretrained_model_path is given."
        )
    return config
