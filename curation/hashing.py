"""One way to turn content and settings into an id."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def content_id(*parts: Any, length: int = 16) -> str:
    """Hex id of JSON-serialisable parts: the same parts give the same id on any machine."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
