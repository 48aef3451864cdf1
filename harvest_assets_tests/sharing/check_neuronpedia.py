"""Reads an export for Neuronpedia with SAEDashboard's own classes, which must give it back.

SAEDashboard brings other versions of our own requirements along, so this runs in an environment of
its own, without them:

    pip install --no-deps sae-dashboard numpy
    python check_neuronpedia.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    from sae_dashboard.neuronpedia.neuronpedia_dashboard import NeuronpediaDashboardBatch

    n_features = n_activations = 0
    for file in sorted(Path(sys.argv[1]).rglob("batch-*.json")):
        content = json.loads(file.read_text())
        batch = NeuronpediaDashboardBatch(**content)
        assert batch.to_dict() == content, file
        n_features += len(batch.features)
        n_activations += sum(len(feature.activations) for feature in batch.features)
    assert n_activations
    print(f"{n_features} features with {n_activations} activations are read as they were written.")


if __name__ == "__main__":
    main()
