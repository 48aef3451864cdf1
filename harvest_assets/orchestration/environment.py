"""Settings for everything that runs unattended."""

from __future__ import annotations

from pydantic import Field

from harvest_assets.settings import EnvironmentModel


class UnattendedSettings(EnvironmentModel):
    """When harvests start and how often a failed step is retried."""

    automation: bool = Field(
        default=False,
        description="1: the sensor and the automation are on without being switched on in the UI.",
    )
    max_active_runs: int = Field(
        default=4,
        ge=1,
        description="The automation starts new harvests while fewer than this many are unfinished.",
    )
    max_retries: int = Field(
        default=3,
        ge=0,
        description=(
            "How often a step is retried after an error that is not of its input; twice as often "
            "where another service does not answer. Read when the definitions are loaded."
        ),
    )
    retry_seconds: int = Field(
        default=60,
        ge=0,
        description=(
            "Seconds before the first retry; each of the next waits twice as long as the one "
            "before it. Read when the definitions are loaded."
        ),
    )
    backfill_cron: str = Field(
        default="0 3 * * *",
        description="When the schedule runs. Read when the definitions are loaded.",
    )
    backfill_changed: bool = Field(
        default=False,
        description=(
            "1: the schedule also harvests runs whose plan or checkpoint has changed since they "
            "were harvested."
        ),
    )
