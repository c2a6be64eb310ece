"""E1010, E2100 to E2109, E4011 to E4019, E5070 to E5079: text messages."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

TEMPLATE_VARIABLE_MISSING = ErrorCode(
    "E2100",
    422,
    "Values for variables of the template are missing.",
    "`variables` lists those that `templateId` needs. `name` defaults to the name of the lead.",
)
TEMPLATE_VARIABLE_UNKNOWN = ErrorCode(
    "E2101",
    422,
    "The template does not have these variables.",
    "`variables` lists those that `templateId` does not use.",
)
PHONE_UNUSABLE = ErrorCode(
    "E2102",
    422,
    "No message can be sent to this phone number.",
    "`phone` is neither a number in E.164 format nor one of the country ANNALS_SMS_REGION."
    " Without that setting it has to begin with `+`.",
)
RECEIPT_NOT_SIGNED = ErrorCode(
    "E1010",
    403,
    "The signature is not valid.",
    "X-Twilio-Signature does not match the request under ANNALS_SMS_TWILIO_TOKEN,"
    " ANNALS_SMS_PUBLIC_URL is not the address that the gateway calls, or another gateway is"
    " configured.",
)
SMS_GATEWAY_UNAVAILABLE = ErrorCode(
    "E4011",
    503,
    "The SMS gateway is unavailable; the message was recorded and will be sent later.",
    "The circuit breaker is open; GET /api/sms/gateway shows until when. The response is"
    " `{success: false, error, code, errorCode, retrying: true}` and no problem document, with a"
    " Retry-After header. Do not send the request again without the same Idempotency-Key: that"
    " would send the message twice.",
    known_as="CIRCUIT_BREAKER_OPEN",
)
LEAD_OPTED_OUT = ErrorCode(
    "E5070",
    409,
    "The lead has opted out of text messages.",
    "`smsOptOut` of the lead is true. If it is set while a message waits, that message is not"
    " sent either.",
)
LEAD_HAS_NO_PHONE = ErrorCode(
    "E5071",
    422,
    "The lead has no phone number.",
    "Its `phone` is empty.",
)
LEAD_DAILY_LIMIT_REACHED = ErrorCode(
    "E5072",
    429,
    "The lead has received the maximum number of messages a day.",
    "`dailyMax` is ANNALS_SMS_LEAD_DAILY_MAX; days are in UTC.",
)
WORKSPACE_DAILY_LIMIT_REACHED = ErrorCode(
    "E5073",
    429,
    "The workspace has sent the maximum number of messages a day.",
    "`dailyMax` is ANNALS_SMS_WORKSPACE_DAILY_MAX; days are in UTC.",
)
