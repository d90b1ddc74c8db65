"""Base of all configuration sections."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Immutable; an unknown key is an error (with the nearest name, see `config.load`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
