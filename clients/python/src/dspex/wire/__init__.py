"""The dspex protocol without sockets: bytes in, messages out, and back. docs/protocol.md is its text.

    splitter = FrameSplitter(max_frame)
    for event in splitter.feed(received):      # bodies; TooLong; StructureError as the last
        message = decode(event)                # Request, Response, Item, …
    socket.sendall(encode_request(1, "echo", None, {"value": 1}))

This is the one implementation in Python: clients and workers use it alike. Nothing here keeps state but a
`FrameSplitter`, and all functions may be used from any thread.
"""

from .decode import PlainRequests, decode, decode_value
from .encode import (
    encode_cancel,
    encode_change,
    encode_credit,
    encode_error,
    encode_item,
    encode_notification,
    encode_request,
    encode_response,
    pack_map,
)
from .limits import (
    DEFAULT_FRAME,
    MAX_CREDIT,
    MAX_DEPTH,
    MAX_HEAD,
    MAX_ID,
    MAX_METHOD,
    MAX_REASON,
    MAX_SESSION_ID,
    MAX_STATE_KEY,
    MAX_VALUES,
    MIN_FRAME_LIMIT,
    PROTOCOL,
)
from .messages import Cancel, Change, Credit, Item, Kind, Message, Notification, Request, Response, Unknown
from .meta import check_request_meta, is_session_id
from .scan import Body, scan
from .splitter import Event, FrameSplitter, TooLong
from .values import pack_value, plain_value
from .violations import ContentError, EnvelopeError, StructureError, Violation

__all__ = [
    "DEFAULT_FRAME",
    "MAX_CREDIT",
    "MAX_DEPTH",
    "MAX_HEAD",
    "MAX_ID",
    "MAX_METHOD",
    "MAX_REASON",
    "MAX_SESSION_ID",
    "MAX_STATE_KEY",
    "MAX_VALUES",
    "MIN_FRAME_LIMIT",
    "PROTOCOL",
    "Body",
    "Cancel",
    "Change",
    "ContentError",
    "Credit",
    "EnvelopeError",
    "Event",
    "FrameSplitter",
    "Item",
    "Kind",
    "Message",
    "Notification",
    "PlainRequests",
    "Request",
    "Response",
    "StructureError",
    "TooLong",
    "Unknown",
    "Violation",
    "check_request_meta",
    "decode",
    "decode_value",
    "encode_cancel",
    "encode_change",
    "encode_credit",
    "encode_error",
    "encode_item",
    "encode_notification",
    "encode_request",
    "encode_response",
    "is_session_id",
    "pack_map",
    "pack_value",
    "plain_value",
    "scan",
]
