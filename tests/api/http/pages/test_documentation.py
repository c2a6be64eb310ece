"""The documentation's pages: their policies, and that they need no other server."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

import pytest

from api.http.pages.security import PAGE_POLICY, policy_of
from tests.support.api_server import Api

EXTERNAL = re.compile(r'(?:src|href)="(?:https?:)?//[^"]+"')
PAGES = ("/docs", "/redoc")


def directives(policy: str) -> dict[str, list[str]]:
    """Return the sources of each directive of a Content-Security-Policy."""
    return {name: sources for name, *sources in (each.split() for each in policy.split(";"))}


@pytest.mark.parametrize("path", PAGES)
def test_pages_work_offline(api: Api, path: str) -> None:
    client = api.client()
    page = client.get(path)
    assert page.status_code == 200
    assert EXTERNAL.findall(page.text) == []
    assets = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert assets
    for asset in assets:
        assert client.get(asset).status_code == 200, asset


@pytest.mark.parametrize("path", PAGES)
def test_policy_allows_the_scripts_of_the_page_and_no_others(api: Api, path: str) -> None:
    page = api.client().get(path)
    policy = directives(page.headers["Content-Security-Policy"])
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == ["'none'"]
    inline = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digests = [b64encode(sha256(each.encode()).digest()).decode() for each in inline]
    assert policy["script-src"] == ["'self'", *(f"'sha256-{each}'" for each in digests)]
    assert len(re.findall("<script", page.text)) == len(inline) + 1, "the other one is a file"
    assert not re.findall(r"\son[a-z]+=", page.text), "a policy without unsafe-inline stops these"


def test_policies_name_no_other_site() -> None:
    for policy in (PAGE_POLICY, policy_of("<script>a()</script>")):
        sources = {source for each in directives(policy).values() for source in each}
        assert not {each for each in sources if "." in each or each == "'unsafe-eval'"}


def test_responses_have_the_usual_headers(api: Api) -> None:
    for path in (*PAGES, "/livez", "/api/errors", "/openapi.json"):
        headers = api.client().get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
