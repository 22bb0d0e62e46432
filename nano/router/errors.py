"""What goes wrong with a request, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import msgspec

from nano.wire import Failure

RETRY_AFTER_S = 1


class ApiError(Exception):
    """status: of HTTP. param: the field at fault. Raised before anything was sent; in a stream it is an event."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> bytes:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return msgspec.json.encode(
            {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
        )

    def headers(self) -> list[tuple[str, str]]:
        headers = [("content-type", "application/json")]
        if self.status == 503:
            headers.append(("retry-after", str(RETRY_AFTER_S)))
        return headers


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, what: str = "") -> ApiError:
    return ApiError(400, f"{param} is not supported{what}", param=param, code="unsupported_parameter")


def unavailable(message: str) -> ApiError:
    return ApiError(503, message, code="unavailable")


_STATUS = {"invalid": 400, "overloaded": 503, "peer_lost": 502, "deadline": 504}


def from_failure(failure: Failure) -> ApiError:
    """What the client hears of a request that its engine could not finish."""
    return ApiError(_STATUS.get(failure.code, 500), failure.message, code=failure.code)
