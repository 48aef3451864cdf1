"""Coverage-guided fuzzing of every reader, with atheris (`pip install '.[fuzz]'`).

`python -m harvest_assets_tests.hostile.fuzz [TARGET...] --inputs N` tries N inputs in all, one
process a target, one after the other. Whatever a reader raises but the permitted errors ends its
target, as does an input that takes ten seconds or four gigabytes; the bytes are kept.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import sys
import time
import traceback
from pathlib import Path

INPUTS = 1_000_000
_LONGEST = 1 << 16
_SECONDS_AN_INPUT = 10
_MEGABYTES = 4096
# Of a share: what takes a hundred times as long as a small JSON file.
_SLOW = {"address": 0.3, "state-tensors": 0.5}
_STATISTICS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_INSTRUMENTED = ["harvest_assets", "yaml", "zipfile", "pickletools", "fnmatch", "tokenize"]


def main() -> int:
    """Fuzz the targets; answers 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[2])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="omitted: all")
    parser.add_argument("--inputs", type=int, default=INPUTS, help="over all targets")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    asked = parser.parse_args()
    # What numba compiles cannot be instrumented.
    os.environ.update(HF_HUB_OFFLINE="1", NUMBA_DISABLE_JIT="1")
    import atheris

    with atheris.instrument_imports(include=[*_INSTRUMENTED, "torch._weights_only_unpickler"]):
        from harvest_assets_tests.hostile.readers import READERS

    unknown = set(asked.targets) - set(READERS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; known: {', '.join(READERS)}")
    asked.findings.mkdir(parents=True, exist_ok=True)
    targets = asked.targets or list(READERS)
    shares = {target: _SLOW.get(target, 1.0) for target in targets}
    total, failed = 0, []
    for target, share in shares.items():
        inputs = int(asked.inputs * share / sum(shares.values())) + 1
        started = time.monotonic()
        tried, status = _in_a_process(target, inputs, asked.seed, asked.findings)
        total += tried
        if status:
            failed.append(target)
        verdict = f"FAILED, see {asked.findings}" if status else "ok"
        seconds = time.monotonic() - started
        print(f"{target:18} {tried:9,} inputs {seconds:7.0f} s  {verdict}", flush=True)
    print(f"{total:,} inputs; failed: {', '.join(failed) or 'none'}")
    return bool(failed)


def _in_a_process(target: str, inputs: int, seed: int, findings: Path) -> tuple[int, int]:
    """How many inputs were tried, and the exit status of the process that tried them."""
    from harvest_assets_tests.hostile.readers.reader import scratch_folder

    folder, log = scratch_folder(), findings / f"{target}.log"
    child = os.fork()
    if not child:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            _fuzz(target, inputs, seed, findings, folder)
        except BaseException:  # noqa: BLE001 - the process ends in any case
            traceback.print_exc()
        os._exit(70)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    shutil.rmtree(folder, ignore_errors=True)
    counts = _STATISTICS.findall(log.read_text(encoding="utf-8", errors="replace"))
    return max(map(int, counts), default=0), status


def _fuzz(target: str, inputs: int, seed: int, findings: Path, folder: Path) -> None:
    """Does not return: the library ends the process."""
    import atheris

    # The library looks at the memory once a second only; one allocation can be faster.
    resource.setrlimit(resource.RLIMIT_DATA, (2 * _MEGABYTES << 20,) * 2)

    from harvest_assets_tests.hostile.readers import READERS

    files, corpus = folder / "files", folder / "corpus"
    files.mkdir()
    corpus.mkdir()
    reader = READERS[target](files)
    for number, content in enumerate(reader.seeds()):
        (corpus / f"seed{number}").write_bytes(content)

    def one(content: bytes) -> None:
        reader(content)

    arguments = {
        "runs": inputs,
        "seed": seed,
        "max_len": _LONGEST,
        "timeout": _SECONDS_AN_INPUT,
        "rss_limit_mb": _MEGABYTES,
        "artifact_prefix": f"{findings / target}-",
        "print_final_stats": 1,
    }
    options = [f"-{name}={value}" for name, value in arguments.items()]
    atheris.Setup([sys.argv[0], str(corpus), *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
