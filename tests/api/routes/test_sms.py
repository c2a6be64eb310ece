"""Text messages over HTTP: requests, history, the gateway's state, and delivery receipts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

import httpx
import psycopg
import pytest

from commands.delivery.gateway import OutgoingSms
from commands.processes import PROCESSES
from runtime.gateways.log_only import LoggingGateway
from server.postgres.embedded import Cluster
from tests.support.api_server import Api, ApiWorkspace, free_port, running_api
from tests.support.databases import Urls, fresh_database
from tests.support.sms_harness import (
    PHONE,
    CountingGateway,
    SmsHarness,
    gateway_to,
    open_sms_harness,
)
from tests.support.twilio_server import ACCOUNT, TOKEN, FakeTwilio, sign, twilio_server
from tests.support.waiting import wait_until

LEAD_DAILY_MAX = 4
RECEIPTS = "/api/sms/receipts"


@dataclass
class SmsStack:
    """An API that Twilio can reach, and the sender of its messages."""

    api: Api
    sms: SmsHarness
    twilio: FakeTwilio

    def send_all(self) -> None:
        """Send all requested messages to Twilio."""
        self.sms.send_all(gateway_to(self.twilio, public_url=self.api.url))


@pytest.fixture(scope="module")
def sms_stack(cluster: Cluster, template: str) -> Iterator[SmsStack]:
    """A stack for all tests of this module; each test has its own workspace."""
    port = free_port()
    with twilio_server() as twilio, fresh_database(cluster, template) as urls:
        more = {
            **twilio.settings(),
            "sms_public_url": f"http://127.0.0.1:{port}",
            "sms_lead_daily_max": LEAD_DAILY_MAX,
            "port": port,
        }
        with (
            running_api(urls.owner, urls.app, urls.projector, **more) as api,
            open_sms_harness(urls) as sms_harness,
        ):
            yield SmsStack(api, sms_harness, twilio)


@pytest.fixture
def api_workspace(sms_stack: SmsStack) -> ApiWorkspace:
    return sms_stack.api.new_workspace()


def create_lead(api_workspace: ApiWorkspace, **fields: Any) -> str:
    given = {"name": "Ada Lovelace", "phone": PHONE, **fields}
    return str(api_workspace.make("leads", **given).json()["id"])


def send(api_workspace: ApiWorkspace, **body: Any) -> httpx.Response:
    return api_workspace.client().post("/api/leads/send-sms", json=body)


def request_sms(api_workspace: ApiWorkspace, lead: str, message: str = "Hello") -> dict[str, Any]:
    """Request a message and return it."""
    answer = send(api_workspace, leadId=lead, message=message)
    assert answer.status_code == 200, answer.text
    sms: dict[str, Any] = answer.json()["sms"]
    return sms


def read_history(api_workspace: ApiWorkspace, lead: str, **query: Any) -> dict[str, Any]:
    """Return the SMS history of a lead once it shows all recorded events."""
    position = api_workspace.api.writing.log.recorder.max_notification_id()
    headers = {"Annals-Min-Position": str(position or 0)}
    answer = api_workspace.client().get(
        f"/api/leads/{lead}/sms-history", params=query, headers=headers
    )
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# Requests


def test_text_message_cannot_be_restored_so_that_it_is_sent_again(
    api_workspace: ApiWorkspace,
) -> None:
    answer = send(api_workspace, leadId=create_lead(api_workspace), message="Hello")
    sms_id = answer.json()["sms"]["id"]
    for path in (f"/api/sms/{sms_id}/restore", f"/api/sms/{sms_id}"):
        assert api_workspace.client().post(path).status_code in (404, 405)
    undone = api_workspace.client().post(
        "/api/undo", json={"commandId": answer.headers["Annals-Command"]}
    )
    assert code_of(undone) == (409, "E5016"), undone.text


def test_requested_message_is_in_the_history(api_workspace: ApiWorkspace) -> None:
    lead = create_lead(api_workspace)
    answer = send(api_workspace, leadId=lead, message="Your documents are ready.")
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"success", "sms"}
    assert body["success"] is True
    sms = body["sms"]
    assert set(sms) == {"id", "leadId", "message", "status", "sentAt"}
    assert (sms["leadId"], sms["status"]) == (lead, "pending")
    assert sms["message"] == "Your documents are ready."
    assert datetime.fromisoformat(sms["sentAt"]).tzinfo is not None
    assert int(answer.headers["Annals-Position"]) > 0
    (seen,) = read_history(api_workspace, lead)["sms_messages"]
    assert {name: seen[name] for name in ("id", "leadId", "message", "status")} == {
        name: sms[name] for name in ("id", "leadId", "message", "status")
    }
    assert datetime.fromisoformat(seen["sentAt"]) == datetime.fromisoformat(sms["sentAt"])
    assert seen["phone"] == "+442079460000"


def test_delivered_message_cannot_be_undone(
    sms_stack: SmsStack, api_workspace: ApiWorkspace
) -> None:
    lead = create_lead(api_workspace)
    answer = send(api_workspace, leadId=lead, message="Hello")
    sms_stack.send_all()
    message = sms_stack.twilio.messages[answer.json()["sms"]["id"]]
    assert read_history(api_workspace, lead)["sms_messages"][0]["status"] == "sent"
    assert sms_stack.twilio.receipt(message, "delivered").status_code == 204
    (seen,) = read_history(api_workspace, lead)["sms_messages"]
    assert (seen["status"], seen["gatewayId"]) == ("delivered", message.sid)
    undo = api_workspace.client().post(
        "/api/undo", json={"commandId": answer.headers["Annals-Command"]}
    )
    assert code_of(undo) == (409, "E5016")


def test_repetition_with_an_idempotency_key_sends_once(
    sms_stack: SmsStack, api_workspace: ApiWorkspace
) -> None:
    lead, headers = create_lead(api_workspace), {"Idempotency-Key": str(uuid4())}
    body = {"leadId": lead, "message": "Hello"}
    answers = [
        api_workspace.client().post("/api/leads/send-sms", json=body, headers=headers)
        for _ in range(2)
    ]
    assert answers[0].content == answers[1].content
    assert len(read_history(api_workspace, lead)["sms_messages"]) == 1


TEMPLATES: dict[str, tuple[dict[str, Any], str]] = {
    "all variables": (
        {
            "templateId": "appointment_confirmation",
            "variables": {"name": "Ms King", "date": "1 March", "time": "10:00"},
        },
        "Hello Ms King, your appointment on 1 March at 10:00 is confirmed.",
    ),
    "the name is the lead's": (
        {"templateId": "payment_reminder", "variables": {"amount": "£12", "dueDate": "1 March"}},
        "Hello Ada Lovelace, this is a reminder that £12 is due on 1 March.",
    ),
    "the message is a variable": (
        {"templateId": "follow_up", "message": "how was it?", "variables": {}},
        "Hello Ada Lovelace, how was it?",
    ),
    "the client has filled it": (
        {"templateId": "follow_up", "message": "Dear Ada, how was it?"},
        "Dear Ada, how was it?",
    ),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_template_is_filled(api_workspace: ApiWorkspace, case: str) -> None:
    body, expected = TEMPLATES[case]
    lead = create_lead(api_workspace)
    answer = send(api_workspace, leadId=lead, **body)
    assert answer.json()["sms"]["message"] == expected
    assert read_history(api_workspace, lead)["sms_messages"][0]["templateId"] == body["templateId"]


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, str], dict[str, Any]]] = {
    "variable missing": (
        {},
        {"templateId": "payment_reminder", "variables": {"amount": "£12"}},
        (422, "E2100"),
        {"templateId": "payment_reminder", "variables": ["dueDate"]},
    ),
    "all of them missing": (
        {},
        {"templateId": "appointment_confirmation"},
        (422, "E2100"),
        {"variables": ["date", "time"]},
    ),
    "variable unknown": (
        {},
        {"templateId": "follow_up", "variables": {"message": "x", "colour": "red"}},
        (422, "E2101"),
        {"variables": ["colour"]},
    ),
    "template unknown": ({}, {"templateId": "other", "variables": {}}, (422, "E2006"), {}),
    "nothing to say": ({}, {}, (422, "E2004"), {}),
    "too much to say": ({}, {"message": "x" * 1601}, (422, "E2007"), {}),
    "unknown field": ({}, {"message": "x", "colour": "red"}, (422, "E2005"), {}),
    "opted out": ({"smsOptOut": True}, {"message": "x"}, (409, "E5070"), {}),
    "no phone": ({"phone": None}, {"message": "x"}, (422, "E5071"), {}),
    "no country": ({"phone": "020 7946 0000"}, {"message": "x"}, (422, "E2102"), {}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_message_is_refused_with_its_code(api_workspace: ApiWorkspace, case: str) -> None:
    fields, body, expected, facts = REFUSED[case]
    lead = create_lead(api_workspace, **{name: value for name, value in fields.items() if value})
    if fields.get("phone", "") is None:
        api_workspace.client().patch(f"/api/leads/{lead}", json={"phone": None})
    answer = send(api_workspace, leadId=lead, **body)
    assert code_of(answer) == expected, answer.text
    assert facts.items() <= answer.json().items()
    assert read_history(api_workspace, lead) == {"sms_messages": [], "nextCursor": None}


def test_message_to_an_unknown_or_deleted_lead_is_refused(api_workspace: ApiWorkspace) -> None:
    other = api_workspace.api.new_workspace()
    for lead in (str(uuid4()), create_lead(other)):
        assert code_of(send(api_workspace, leadId=lead, message="x")) == (404, "E5002")
        answer = api_workspace.client().get(f"/api/leads/{lead}/sms-history")
        assert code_of(answer) == (404, "E5002")
    gone = create_lead(api_workspace)
    api_workspace.client().delete(f"/api/leads/{gone}")
    assert code_of(send(api_workspace, leadId=gone, message="x")) == (409, "E5003")


def test_messages_per_lead_and_day_are_limited(api_workspace: ApiWorkspace) -> None:
    lead = create_lead(api_workspace)
    for _ in range(LEAD_DAILY_MAX):
        request_sms(api_workspace, lead)
    answer = send(api_workspace, leadId=lead, message="x")
    assert code_of(answer) == (429, "E5072")
    assert answer.json()["dailyMax"] == LEAD_DAILY_MAX
    request_sms(api_workspace, create_lead(api_workspace))


def test_history_is_read_page_by_page(api_workspace: ApiWorkspace) -> None:
    lead = create_lead(api_workspace)
    requested = [
        request_sms(api_workspace, lead, f"number {number}")["id"]
        for number in range(LEAD_DAILY_MAX)
    ]
    seen, cursor = [], None
    for _ in range(LEAD_DAILY_MAX):
        page = read_history(
            api_workspace, lead, pageSize=1, **({"cursor": cursor} if cursor else {})
        )
        seen += [each["id"] for each in page["sms_messages"]]
        cursor = page["nextCursor"]
    assert seen == list(reversed(requested))
    assert cursor is None


@pytest.mark.parametrize("role", ["read-only", "auditor", "analyst"])
def test_role_without_write_permission_cannot_send(api_workspace: ApiWorkspace, role: str) -> None:
    lead = create_lead(api_workspace)
    body = {"leadId": lead, "message": "x"}
    answer = api_workspace.client(role).post("/api/leads/send-sms", json=body)
    assert code_of(answer) == (403, "E1008")
    assert api_workspace.client(role).get(f"/api/leads/{lead}/sms-history").status_code == 200


# The gateway


@pytest.fixture
def breaker(sms_stack: SmsStack) -> Iterator[Callable[[str], None]]:
    """A function that sets the circuit breaker's state; afterwards the breaker is closed."""

    def set_to(state: str) -> None:
        sms_stack.sms.database.execute(
            """UPDATE circuit_breakers
                  SET state = %(state)s, failures = array_fill(now(), ARRAY[5]), wait_s = 30,
                      until = CASE WHEN %(state)s = 'CLOSED' THEN NULL
                                   ELSE now() + interval '30 s' END""",
            {"state": state},
        )

    yield set_to
    sms_stack.sms.database.execute(
        "UPDATE circuit_breakers SET state = 'CLOSED', failures = '{}', wait_s = 0, until = NULL"
    )


def test_message_is_sent_later_if_the_breaker_is_open(
    sms_stack: SmsStack, api_workspace: ApiWorkspace, breaker: Callable[[str], None]
) -> None:
    lead = create_lead(api_workspace)
    breaker("OPEN")
    headers = {"Idempotency-Key": str(uuid4())}
    body = {"leadId": lead, "message": "Hello"}
    answers = [
        api_workspace.client().post("/api/leads/send-sms", json=body, headers=headers)
        for _ in range(2)
    ]
    for answer in answers:
        assert answer.status_code == 503
        assert answer.headers["Content-Type"] == "application/json"
        problem = answer.json()
        assert set(problem) == {"success", "error", "code", "errorCode", "retrying"}
        assert (problem["code"], problem["errorCode"]) == ("CIRCUIT_BREAKER_OPEN", "E4011")
        assert int(answer.headers["Retry-After"]) >= 1
        assert (problem["success"], problem["retrying"]) == (False, True)
        assert "sent later" in problem["error"]
    (seen,) = read_history(api_workspace, lead)["sms_messages"]
    assert seen["status"] == "pending"
    breaker("CLOSED")
    sms_stack.send_all()
    assert read_history(api_workspace, lead)["sms_messages"][0]["status"] == "sent"


@pytest.mark.parametrize("state", ["CLOSED", "OPEN", "HALF_OPEN"])
def test_state_of_the_gateway_is_shown(
    sms_stack: SmsStack, api_workspace: ApiWorkspace, breaker: Callable[[str], None], state: str
) -> None:
    stranger = sms_stack.api.new_workspace()
    request_sms(stranger, create_lead(stranger))
    sms_stack.api.wait_until_projected(
        sms_stack.api.writing.log.recorder.max_notification_id() or 0
    )
    breaker(state)
    gateway = api_workspace.client("read-only").get("/api/sms/gateway").json()
    assert (gateway["gateway"], gateway["state"], gateway["failures"]) == ("twilio", state, 5)
    assert (gateway["openUntil"] is None) == (state == "CLOSED")
    assert gateway["waiting"] == 0, "messages of other workspaces are not counted"
    assert stranger.client().get("/api/sms/gateway").json()["waiting"] == 1
    expected = [
        f'annals_sms_gateway_state{{state="{each}"}} {float(each == state)}'
        for each in ("CLOSED", "OPEN", "HALF_OPEN")
    ]
    metrics = sms_stack.api.client()
    wait_until(
        lambda: set(expected) <= set(metrics.get("/metrics").text.splitlines()),
        f"the metrics show that the breaker is {state}",
    )


def test_metrics_show_the_progress_of_process_managers(
    sms_stack: SmsStack, api_workspace: ApiWorkspace
) -> None:
    request_sms(api_workspace, create_lead(api_workspace))
    sms_stack.sms.react()
    client = sms_stack.api.client()

    def read_metric(name: str, process: str) -> float:
        start = f'annals_process_{name}{{process="{process}"'
        lines = client.get("/metrics").text.splitlines()
        (line,) = (each for each in lines if each.startswith(start))
        return float(line.split()[-1])

    wait_until(
        lambda: read_metric("commands_waiting", "sms") >= 1, "the metrics show a waiting command"
    )
    for process in PROCESSES:
        assert read_metric("position", process) > 0
        assert read_metric("lag_seconds", process) == 0.0
    sms_stack.sms.send_all(CountingGateway())


# Receipts


@dataclass
class Delivery:
    """A message that was sent to Twilio, and its receipts."""

    sms_stack: SmsStack
    api_workspace: ApiWorkspace
    lead: str
    sms: str

    @property
    def url(self) -> str:
        """The URL of receipts."""
        return self.sms_stack.twilio.messages[self.sms].form["StatusCallback"]

    def receive(self, status: str, **more: str) -> httpx.Response:
        """Send a receipt with this status, signed by Twilio."""
        return self.sms_stack.twilio.receipt(
            self.sms_stack.twilio.messages[self.sms], status, **more
        )

    def shown(self) -> dict[str, Any]:
        """Return the message as the history shows it."""
        (one,) = read_history(self.api_workspace, self.lead)["sms_messages"]
        shown: dict[str, Any] = one
        return shown

    def version(self) -> int:
        """Return the version of the message's stream."""
        with psycopg.connect(self.sms_stack.api.settings.projector_url or "") as connection:
            statement = "SELECT max(stream_version) FROM events WHERE stream_id = %s"
            row = connection.execute(statement, (self.sms,)).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def delivery(sms_stack: SmsStack, api_workspace: ApiWorkspace) -> Delivery:
    lead = create_lead(api_workspace)
    sms = request_sms(api_workspace, lead)["id"]
    sms_stack.send_all()
    return Delivery(sms_stack, api_workspace, lead, sms)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["sent", "delivered"], "delivered"),
        (["delivered", "sent"], "delivered"),
        (["delivered", "delivered", "queued"], "delivered"),
        (["sending", "sent"], "sent"),
        (["undelivered", "sent", "undelivered"], "undelivered"),
        (["failed"], "failed"),
        (["something new"], "sent"),
    ],
)
def test_order_and_repetition_of_receipts_do_not_matter(
    delivery: Delivery, statuses: list[str], expected: str
) -> None:
    assert [delivery.receive(status).status_code for status in statuses] == [204] * len(statuses)
    assert delivery.shown()["status"] == expected
    assert delivery.version() == (3 if expected == "sent" else 4)


def test_history_shows_the_error_of_an_undelivered_message(delivery: Delivery) -> None:
    assert delivery.receive("undelivered", ErrorCode="30003").status_code == 204
    shown = delivery.shown()
    assert (shown["status"], shown["errorCode"]) == ("undelivered", "30003")
    assert shown["error"] == "the gateway reports error 30003"


def test_receipt_before_the_gateways_answer_is_accepted(
    sms_stack: SmsStack, api_workspace: ApiWorkspace
) -> None:
    """The gateway's answer can be lost, or the sender can die before it; the receipt decides."""
    lead = create_lead(api_workspace)
    sms = request_sms(api_workspace, lead)["id"]
    sms_stack.sms.react()
    sms_stack.twilio.faults = ["cut"]
    sending = sms_stack.sms.delivery(gateway_to(sms_stack.twilio, public_url=sms_stack.api.url))
    assert sending.send_next()
    assert sms_stack.twilio.receipt(sms_stack.twilio.messages[sms], "delivered").status_code == 204
    sms_stack.send_all()
    (shown,) = read_history(api_workspace, lead)["sms_messages"]
    assert shown["status"] == "delivered"
    assert sms_stack.twilio.messages[sms].calls == 1, "the sender does not send the message again"


Form = dict[str, str]
BAD: dict[str, Callable[[str, Form], tuple[str, Form, str]]] = {
    "no signature": lambda url, form: (url, form, ""),
    "another's token": lambda url, form: (url, form, sign("x" * 32, url, form)),
    "another address": lambda url, form: (url, form, sign(TOKEN, f"{url}x", form)),
    "a changed form": lambda url, form: (
        url, {**form, "MessageStatus": "failed"}, sign(TOKEN, url, form)
    ),
    "a changed message": lambda url, form: (with_other_id(url), form, sign(TOKEN, url, form)),
    "one more parameter": lambda url, form: (url, {**form, "X": "y"}, sign(TOKEN, url, form)),
}  # fmt: skip


def with_other_id(url: str) -> str:
    """Return the URL with another message id."""
    return url[:-1] + ("0" if url[-1] != "0" else "1")


@pytest.mark.parametrize("case", BAD)
def test_receipt_without_a_valid_signature_is_403(delivery: Delivery, case: str) -> None:
    form = {"MessageSid": "SM1", "MessageStatus": "delivered", "AccountSid": ACCOUNT}
    url, form, signature = BAD[case](delivery.url, form)
    headers = {"X-Twilio-Signature": signature}
    answer = httpx.post(url, data=form, headers=headers, verify=False)
    assert code_of(answer) == (403, "E1010")
    assert delivery.sms not in answer.text
    assert delivery.shown()["status"] == "sent"


def test_receipt_of_an_unknown_message_is_404_without_details(delivery: Delivery) -> None:
    known = dict(parse_qsl(urlsplit(delivery.url).query))
    for unknown in ({**known, "smsId": str(uuid4())}, {**known, "workspaceId": str(uuid4())}):
        url = f"{delivery.sms_stack.api.url}{RECEIPTS}?{urlencode(unknown)}"
        form = {"MessageSid": "SM1", "MessageStatus": "delivered"}
        headers = {"X-Twilio-Signature": sign(TOKEN, url, form)}
        answer = httpx.post(url, data=form, headers=headers, verify=False)
        assert code_of(answer) == (404, "E5002")
        assert unknown["smsId"] not in answer.text
        assert "kind" not in answer.json()


def test_receipt_is_403_without_a_signing_gateway(api: Api) -> None:
    """The log-only gateway sends no receipts."""
    query = f"workspaceId={uuid4()}&smsId={uuid4()}"
    answer = api.client().post(f"{RECEIPTS}?{query}", data={"MessageStatus": "delivered"})
    assert code_of(answer) == (403, "E1010")


def test_log_only_gateway_logs_neither_number_nor_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outgoing = OutgoingSms(uuid4(), uuid4(), "+442079460000", "secret words")
    with caplog.at_level("INFO", logger="annals.sms"):
        gateway_id = LoggingGateway().send(outgoing)
    assert gateway_id == f"log-{outgoing.id}"
    (record,) = caplog.records
    assert "7946" not in str(vars(record))
    assert "secret" not in str(vars(record))


def test_health_is_red_if_no_sender_reacts_to_messages(urls: Urls) -> None:
    with (
        open_sms_harness(urls) as sms_harness,
        running_api(urls.owner, urls.app, urls.projector, stall_after_s=0.3) as api,
    ):
        client = api.client()
        sms_harness.lead()
        wait_until(lambda: client.get("/healthz").json().get("status") == "ok", "health is ok")
        sms_harness.ask()
        wait_until(lambda: client.get("/healthz").status_code == 503, "health is red")
        assert "sms: has not reacted for" in client.get("/healthz").json()["detail"]
        sms_harness.react()
        wait_until(lambda: client.get("/healthz").status_code == 200, "health is green")
