"""One function per public reader: hostile bytes in, nothing but the permitted errors out.

Each reader is a class: made once, it writes good files with the product's own writers; called with
bytes, it puts them in the place of one of them and reads. What it reads in the end is looked at, so
that a wrong value is not silently believed. Property tests and the fuzzer share them.
"""

from __future__ import annotations

from harvest_assets_tests.hostile.readers.answers import AnswerFile, LiveReply, ModelAnswer
from harvest_assets_tests.hostile.readers.caches import ContextFiles, Firings, MapFiles, Pairs
from harvest_assets_tests.hostile.readers.databases import HarvestDatabase
from harvest_assets_tests.hostile.readers.dictionaries import (
    DictionariesFile,
    DictionaryFiles,
    NewerConfig,
    OtherRecords,
)
from harvest_assets_tests.hostile.readers.interpretations import (
    EntryFile,
    LabelImport,
    LabelTables,
    ListFile,
)
from harvest_assets_tests.hostile.readers.reader import Reader
from harvest_assets_tests.hostile.readers.records import (
    Lease,
    Manifest,
    Plan,
    Progress,
    Registration,
    Rows,
    RunCheckpointFile,
)
from harvest_assets_tests.hostile.readers.requests import Address, AskingAddress, Name
from harvest_assets_tests.hostile.readers.results import (
    Highest,
    Index,
    Line,
    Lines,
    ResultConfig,
    Results,
    Summary,
)
from harvest_assets_tests.hostile.readers.rows import (
    TokenizerFile,
    TokenRowsArrow,
    TokenRowsDescription,
    TokenRowsOrder,
)
from harvest_assets_tests.hostile.readers.run_files import (
    CheckpointArchive,
    CheckpointPickle,
    Config,
    ModelConfig,
)
from harvest_assets_tests.hostile.readers.states import (
    Pointer,
    ShardDescription,
    StateDescription,
    StateTensors,
)

READERS: dict[str, type[Reader]] = {
    "config": Config,
    "model-config": ModelConfig,
    "checkpoint": CheckpointArchive,
    "checkpoint-pickle": CheckpointPickle,
    "results-pickle": Results,
    "plan": Plan,
    "run-checkpoint": RunCheckpointFile,
    "token-rows": Rows,
    "manifest": Manifest,
    "result-config": ResultConfig,
    "summary": Summary,
    "line": Line,
    "lines": Lines,
    "index": Index,
    "highest": Highest,
    "state": StateDescription,
    "state-tensors": StateTensors,
    "shard": ShardDescription,
    "pointer": Pointer,
    "lease": Lease,
    "progress": Progress,
    "registration": Registration,
    "rows": TokenRowsDescription,
    "rows-order": TokenRowsOrder,
    "rows-arrow": TokenRowsArrow,
    "tokenizer": TokenizerFile,
    "name": Name,
    "address": Address,
    "asking-address": AskingAddress,
    "newer-config": NewerConfig,
    "dictionaries": DictionariesFile,
    "dictionary": DictionaryFiles,
    "other-records": OtherRecords,
    "firings": Firings,
    "pairs": Pairs,
    "map": MapFiles,
    "contexts": ContextFiles,
    "harvest-db": HarvestDatabase,
    "entries": EntryFile,
    "label-tables": LabelTables,
    "list": ListFile,
    "label-import": LabelImport,
    "model-answer": ModelAnswer,
    "answers": AnswerFile,
    "live-reply": LiveReply,
}
