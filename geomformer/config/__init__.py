"""Configuration: frozen pydantic sections, presets and overrides."""
