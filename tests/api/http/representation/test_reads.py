"""Entity tags, conditional requests, HEAD, OPTIONS, links, compression and CORS over a socket."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator

import httpx
import orjson
import pytest
import zstandard

from api.app import create_app
from api.http.representation.compression import COMPRESS_BYTES_MIN
from api.http.representation.tags import CODING, find_match, tag_of
from runtime.settings import Settings
from tests.support.api_server import Api, ApiWorkspace, running_api
from tests.support.contract import UNCHECKED
from tests.support.databases import Urls

TAG_OF_VERSION = re.compile(r'"(\d+)-[0-9a-f]{16}"')
ORIGIN = "https://crm.example"
PATHS: dict[str, set[str]] = {
    path: {method.upper() for method in methods}
    for path, methods in create_app(Settings()).openapi()["paths"].items()
}
"""The methods of each path of the document."""


def made(api_workspace: ApiWorkspace, company: str = "Acme") -> str:
    """Create an account, wait until it can be read, and return its path."""
    answer = api_workspace.make("accounts", company=company, type="customer")
    api_workspace.api.wait_until_projected(int(answer.headers["Annals-Position"]))
    return str(answer.headers["Location"])


def accepting(api_workspace: ApiWorkspace, codings: str) -> httpx.Client:
    """A client that takes these content codings."""
    client = api_workspace.client()
    client.headers["Accept-Encoding"] = codings
    return client


def test_tag_changes_with_the_counts_and_if_match_goes_by_the_version(
    api_workspace: ApiWorkspace,
) -> None:
    client, path = api_workspace.client(), made(api_workspace)
    first = client.get(path)
    contact = api_workspace.make("contacts", name="Ada", accountId=first.json()["id"])
    after = {"Annals-Min-Position": contact.headers["Annals-Position"]}
    second = client.get(path, headers=after)
    assert second.json()["contactCount"] == first.json()["contactCount"] + 1
    assert first.headers["ETag"] != second.headers["ETag"]
    for each in (first, second):
        tag = TAG_OF_VERSION.fullmatch(each.headers["ETag"])
        assert tag is not None
        assert tag[1] == "1"
    unchanged = {"If-None-Match": first.headers["ETag"]}
    assert client.get(path, headers=unchanged | after).status_code == 200
    changed = client.patch(
        path, json={"nextAction": "Call"}, headers={"If-Match": first.headers["ETag"]}
    )
    assert changed.status_code == 200
    refused = client.patch(
        path, json={"nextAction": "Write"}, headers={"If-Match": second.headers["ETag"]}
    )
    assert refused.status_code == 412
    plain = client.patch(path, json={"nextAction": "Write"}, headers={"If-Match": '"2"'})
    assert plain.status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/api/accounts", "/api/workspace", "/api/me", "/api/errors", "/openapi.json", "/api/audit"],
)
def test_unchanged_representation_is_304_without_a_body(
    path: str, api_workspace: ApiWorkspace
) -> None:
    made(api_workspace)
    client = api_workspace.client()
    found = client.get(path)
    tag = found.headers["ETag"]
    for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        unchanged = client.get(path, headers={"If-None-Match": condition})
        assert (unchanged.status_code, unchanged.content) == (304, b""), condition
        assert unchanged.headers["ETag"] in (tag, CODING.sub('"', tag))
        assert "Content-Length" not in unchanged.headers
        assert "X-Request-Id" in unchanged.headers
    for condition in ('"other"', "not a tag", tag.strip('"')):
        assert client.get(path, headers={"If-None-Match": condition}).status_code == 200, condition


def test_problem_and_write_are_not_conditional(api_workspace: ApiWorkspace) -> None:
    client = api_workspace.client()
    any_tag = {"If-None-Match": "*"}
    missing = client.get("/api/accounts/00000000-0000-7000-8000-000000000000", headers=any_tag)
    assert missing.status_code == 404
    assert "ETag" not in missing.headers
    created = client.post(
        "/api/accounts", json={"company": "A", "type": "partner"}, headers=any_tag
    )
    assert created.status_code == 201
    assert TAG_OF_VERSION.fullmatch(created.headers["ETag"])


READS = sorted(path for path, methods in PATHS.items() if "GET" in methods and "{" not in path)


@pytest.mark.parametrize("path", [*READS, "/", "/docs", "/openapi.json"])
def test_head_has_the_headers_of_get_and_no_body(path: str, api_workspace: ApiWorkspace) -> None:
    client = accepting(api_workspace, "identity")
    with client.stream("GET", path, timeout=5) as full:
        expected = (full.status_code, full.headers.get("Content-Type"))
        if not str(expected[1]).startswith("text/event-stream"):
            full.read()
    found = client.head(path)
    assert (found.status_code, found.headers.get("Content-Type")) == expected
    assert found.content == b""
    assert "X-Request-Id" in found.headers
    assert client.get("/livez").status_code == 200  # the connection is in order


@pytest.mark.parametrize("path", sorted(PATHS))
def test_options_names_the_methods_of_every_path(path: str, api_workspace: ApiWorkspace) -> None:
    concrete = re.sub(r"\{[^}]*\}", "00000000-0000-7000-8000-000000000000", path)
    with httpx.Client(base_url=api_workspace.api.url) as client:  # without a key
        answer = client.options(concrete)
    assert (answer.status_code, answer.content) == (204, b"")
    allowed = set(answer.headers["Allow"].split(", "))
    assert PATHS[path] | {"OPTIONS"} <= allowed
    assert ("HEAD" in allowed) == ("GET" in allowed)


def test_options_of_an_unknown_path_is_404(api_workspace: ApiWorkspace) -> None:
    assert api_workspace.client().options("/api/planets").status_code == 404
    refused = api_workspace.client().put("/api/accounts")
    assert refused.status_code == 405
    assert {"HEAD", "OPTIONS"} <= set(refused.headers["Allow"].split(", "))


def links_of(answer: httpx.Response) -> dict[str, str]:
    """The links of a response by relation."""
    return {str(name): each["url"] for name, each in answer.links.items()}


def test_links_lead_through_all_pages(api_workspace: ApiWorkspace) -> None:
    for number in range(5):
        made(api_workspace, f"Acme {number}")
    client = api_workspace.client()
    seen: list[str] = []
    url: str | None = "/api/accounts?pageSize=2&search=Acme"
    while url:
        page = client.get(url)
        seen += [each["company"] for each in page.json()["items"]]
        assert links_of(page)["first"] == "/api/accounts?pageSize=2&search=Acme"
        url = links_of(page).get("next")
    assert sorted(seen) == [f"Acme {number}" for number in range(5)]
    second = client.get("/api/accounts?pageSize=2&page=2")
    assert links_of(second)["prev"] == "/api/accounts?pageSize=2&page=1"
    assert links_of(second)["last"] == "/api/accounts?pageSize=2&page=3"
    cursor = client.get("/api/accounts?pageSize=2").json()["pagination"]["nextCursor"]
    by_cursor = client.get("/api/accounts", params={"pageSize": 2, "cursor": cursor})
    assert "cursor=" in links_of(by_cursor)["next"]


def test_links_of_lists_that_are_paged_by_cursor_alone(api_workspace: ApiWorkspace) -> None:
    for number in range(3):
        made(api_workspace, f"Acme {number}")
    client = api_workspace.client()
    positions: list[int] = []
    url: str | None = "/api/audit?pageSize=1"
    while url:
        page = client.get(url)
        positions += [each["position"] for each in page.json()["items"]]
        url = links_of(page).get("next")
    assert len(positions) >= 3
    assert positions == sorted(positions, reverse=True)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip", "gzip"), ("zstd", "zstd"), ("gzip, zstd", "zstd"), ("br, gzip;q=0.5", "gzip")],
)
def test_lists_and_documents_are_compressed_as_the_client_takes_it(
    accepted: str, coding: str, api_workspace: ApiWorkspace
) -> None:
    for number in range(3):
        made(api_workspace, f"Acme {number}")
    client = api_workspace.client()
    for path in ("/api/accounts", "/openapi.json"):
        plain = client.get(path, headers={"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in plain.headers
        assert len(plain.content) > COMPRESS_BYTES_MIN
        headers = {"Accept-Encoding": accepted}
        with client.stream("GET", path, headers=headers, extensions={UNCHECKED: True}) as answer:
            raw = b"".join(answer.iter_raw())
        assert answer.headers["Content-Encoding"] == coding
        assert "Accept-Encoding" in answer.headers["Vary"]
        assert len(raw) < len(plain.content)
        if coding == "gzip":
            content = gzip.decompress(raw)
        else:
            content = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
        assert orjson.loads(content) == plain.json()
        tag = answer.headers["ETag"]
        assert tag == plain.headers["ETag"][:-1] + f'-{coding}"'
        again = client.get(path, headers=headers | {"If-None-Match": tag})
        assert (again.status_code, again.headers["ETag"]) == (304, tag)


def test_small_bodies_secrets_and_streams_are_not_compressed(api_workspace: ApiWorkspace) -> None:
    client = accepting(api_workspace, "gzip, zstd")
    assert "Content-Encoding" not in client.get("/livez").headers
    key = client.post("/api/keys", json={"name": "k" * 1_100, "role": "member"})
    assert "Content-Encoding" not in key.headers
    with client.stream("GET", "/api/realtime") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert "Content-Encoding" not in stream.headers


def test_tag_of_a_coding_can_be_sent_back_in_if_match(api_workspace: ApiWorkspace) -> None:
    client = accepting(api_workspace, "gzip")
    path = made(api_workspace)
    client.patch(path, json={"customFields": {"text": "x" * 2_000}})
    found = client.get(path, headers={"Annals-Min-Position": str(latest(api_workspace))})
    assert found.headers["ETag"].endswith('-gzip"')
    headers = {"If-Match": found.headers["ETag"]}
    assert client.patch(path, json={"nextAction": "Call"}, headers=headers).status_code == 200


def latest(api_workspace: ApiWorkspace) -> int:
    """The position of a new event, before which all others are."""
    return int(api_workspace.make("members", name="Ada").headers["Annals-Position"])


@pytest.fixture
def open_to_others(urls: Urls) -> Iterator[Api]:
    """An API that browser applications of one origin may call."""
    with running_api(urls.owner, urls.app, urls.projector, cors_origins=ORIGIN) as api:
        yield api


def test_start_page_answers_a_person_and_a_program(api: Api) -> None:
    with httpx.Client(base_url=api.url) as client:
        page = client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
        assert page.headers["Content-Type"].startswith("text/html")
        assert 'href="/docs"' in page.text
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        content = client.get("/").json()
        assert content["name"] == "Annals"
        for link in content["links"].values():
            assert client.get(link).status_code in (200, 401), link


def test_other_origins_are_not_served_by_default(api: Api) -> None:
    with httpx.Client(base_url=api.url, headers={"Origin": ORIGIN}) as client:
        assert "Access-Control-Allow-Origin" not in client.get("/livez").headers
        preflight = client.options(
            "/api/accounts", headers={"Access-Control-Request-Method": "POST"}
        )
        assert "Access-Control-Allow-Origin" not in preflight.headers


def test_origins_of_the_setting_are_served(open_to_others: Api) -> None:
    with httpx.Client(base_url=open_to_others.url, headers={"Origin": ORIGIN}) as client:
        preflight = client.options(
            "/api/accounts",
            headers={
                "Access-Control-Request-Method": "PATCH",
                "Access-Control-Request-Headers": "authorization,if-match,idempotency-key",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
        refused = client.get("/api/accounts")  # a problem has the headers, too
        assert refused.status_code == 401
        assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "ETag" in refused.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in refused.headers
        assert client.options("/api/accounts").status_code == 204
    with httpx.Client(
        base_url=open_to_others.url, headers={"Origin": "https://evil.example"}
    ) as other:
        assert "Access-Control-Allow-Origin" not in other.get("/livez").headers


def test_matching_tags() -> None:
    tag = tag_of(b"body", "3")
    assert find_match("*", tag) == tag
    assert find_match(f'"a", W/{tag}', tag) == tag
    assert find_match(tag[:-1] + '-zstd"', tag) == tag[:-1] + '-zstd"'
    assert find_match('"3"', tag) is None
    assert find_match(", ".join([f'"{number}"' for number in range(25)] + [tag]), tag) is None
