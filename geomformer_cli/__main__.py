"""`python -m geomformer_cli` is `geomformer`."""

from __future__ import annotations

from geomformer_cli.app import main

if __name__ == "__main__":
    main()
