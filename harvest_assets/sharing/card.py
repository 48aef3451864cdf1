"""The card of a dataset that holds a harvest: `README.md`, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import markdown_cell
from harvest_assets.files.untrusted import read_json
from harvest_assets.results.components_jsonl import read_summary
from harvest_assets.sharing.address import HubDataset
from harvest_assets.store.harvest_name import run_of_key
from harvest_assets.store.imported import source_of
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import owner_of

_CARD = """\
---
tags:
- interpretability
- parameter-decomposition
- harvest_assets
configs:
- config_name: components
  data_files: activation_contexts/components.jsonl
---

# Harvest of {harvest}

What the components of a decomposed language model do: when they fire, on which tokens, and with
which others. It was counted over {tokens} {how}.

| | |
|---|---|
| run | `{run}` |
| components | {components} |
| tokenizer | {tokenizer} |
| a component fires | above {ci_threshold:g} |

## How to read it

```bash
pip install harvest_assets
harvest-assets pull {address}
harvest-assets view {name}
```

```python
from harvest_assets.loaders import activation_examples, load_components_frame, load_correlations

frame = load_components_frame({name!r})
```

| file | contents |
|---|---|
| `activation_contexts/components.jsonl` | one component a line: mean CI, examples, tokens by PMI |
| `activation_contexts/summary.json` | one entry per component |
| `activation_contexts/config.json` | what was harvested and how |
| `correlations/component_correlations.pt` | how often each component, and each pair, fired |
| `correlations/token_stats.pt` | token counts and next-token probabilities of each component |
| `tokenizer/` | the tokenizer of the examples, where it was stored |
| `manifest.json`, `contents.json` | sizes and SHA-256 digests |

The `.pt` files open with `torch.load(path, weights_only=True, mmap=True)`.

## License

To be chosen by the owner of this dataset.
"""


def card_of(paths: HarvestLayout, address: HubDataset) -> str:
    """The text of the card for a finished harvest."""
    config = read_json(paths.config)
    if source_of(paths) is None:
        plan = HarvestPlan.open(paths.root)
        run, ci_threshold, layers = plan.run, plan.ci_threshold, plan.layers
        how = "with `harvest_assets`"
    else:
        run = markdown_cell(run_of_key(owner_of(paths) or paths.root.name))
        ci_threshold, layers = float(config["ci_threshold"]), None
        how = "by SPD's own program, and imported with `harvest_assets`"
    n_tokens = config.get("n_tokens")
    return _CARD.format(
        harvest=owner_of(paths) or run,
        run=run,
        how=how,
        name=paths.root.name,
        address=address,
        tokens=f"{n_tokens:,} tokens" if type(n_tokens) is int else "tokens of its dataset",
        components=f"{len(read_summary(paths)):,} that fired{_chosen(layers)}",
        tokenizer=markdown_cell(config.get("tokenizer_name", "not recorded")),
        ci_threshold=ci_threshold,
    )


def _chosen(layers: Sequence[str] | None) -> str:
    """Which layers they are of, where not all are shared."""
    return f", in {markdown_cell(', '.join(layers))}" if layers else ""
