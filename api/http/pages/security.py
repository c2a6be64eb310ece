"""The Content-Security-Policy of pages: what they load and run, and that no site frames them."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode

BASE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    f"default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self'; {BASE}"
)
"""The policy of pages without scripts."""
INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def policy_of(page: str) -> str:
    """Return the policy of a page that we wrote: its own scripts run, and no other ones.

    Inline scripts are allowed by their digest, so call this with templates, never with a page that
    contains what a client sent. Styles may be inline because Swagger UI and ReDoc insert theirs.
    """
    digests = " ".join(f"'sha256-{_digest(each)}'" for each in INLINE_SCRIPT.findall(page))
    return (
        "default-src 'none'; connect-src 'self'; font-src 'self' data:; img-src 'self' data:;"
        f" script-src 'self' {digests}; style-src 'self' 'unsafe-inline'; worker-src blob:; {BASE}"
    )


def _digest(script: str) -> str:
    return b64encode(hashlib.sha256(script.encode()).digest()).decode()
