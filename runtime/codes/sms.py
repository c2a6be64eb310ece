"""E1010, E2100 to E2109, E4011 to E4019, E5070 to E5079: text messages."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

TEMPLATE_VARIABLE_MISSING = ErrorCode(
    "E2100",
    422,
    "The template has variables that were not given.",
    "`variables` are those that `templateId` needs. `name` is the lead's where it is not given.",
)
TEMPLATE_VARIABLE_UNKNOWN = ErrorCode(
    "E2101",
    422,
    "Variables were given that the template does not have.",
    "`variables` are those that `templateId` has no place for.",
)
PHONE_UNUSABLE = ErrorCode(
    "E2102",
    422,
    "The telephone number cannot be sent to.",
    "`phone` is no number in E.164, nor one of the country ANNALS_SMS_REGION. Without that setting"
    " it has to begin with `+`.",
)
RECEIPT_NOT_SIGNED = ErrorCode(
    "E1010",
    403,
    "The signature is not right.",
    "X-Twilio-Signature does not fit the request under ANNALS_SMS_TWILIO_TOKEN, or"
    " ANNALS_SMS_PUBLIC_URL is not the address that the gateway calls, or another gateway is set.",
)
SMS_GATEWAY_UNAVAILABLE = ErrorCode(
    "E4011",
    503,
    "The gateway for text messages does not answer; the message is kept and sent later.",
    "The circuit breaker is open: GET /api/sms/gateway shows until when. The answer is"
    " `{success: false, error, retrying: true}` and no problem document. The message is recorded;"
    " asking again would send it twice.",
)
LEAD_OPTED_OUT = ErrorCode(
    "E5070",
    409,
    "The lead wants no text messages.",
    "`smsOptOut` of the lead is true. One that is set while a message waits holds for it as well.",
)
LEAD_HAS_NO_PHONE = ErrorCode(
    "E5071",
    422,
    "The lead has no telephone number.",
    "Its `phone` is empty.",
)
LEAD_DAILY_LIMIT_REACHED = ErrorCode(
    "E5072",
    429,
    "The lead has got as many messages as it may in a day.",
    "`dailyMax` is ANNALS_SMS_LEAD_DAILY_MAX; days are those of UTC.",
)
WORKSPACE_DAILY_LIMIT_REACHED = ErrorCode(
    "E5073",
    429,
    "The workspace has sent as many messages as it may in a day.",
    "`dailyMax` is ANNALS_SMS_WORKSPACE_DAILY_MAX; days are those of UTC.",
)
