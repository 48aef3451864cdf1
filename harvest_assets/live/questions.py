"""What can be asked of an opened run, and who answers it.

To add a kind of question: write a module with a `Question`, an `Answer` and a function from an
`OpenedRun` and the question to the answer, and add its `Kind` to `KINDS`. Import torch inside the
function only: the viewer imports this module too.
"""

from __future__ import annotations

from typing import Any

from harvest_assets.live.ablation import ABLATE
from harvest_assets.live.kind import Kind
from harvest_assets.live.prompt import PROMPT
from harvest_assets.live.weights import WEIGHTS

KINDS: dict[str, Kind[Any, Any]] = {kind.name: kind for kind in (PROMPT, ABLATE, WEIGHTS)}
