"""redis-py's exceptions as nano's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import redis.exceptions as errors

from nano.errors import Internal, PeerLost, Refused


def printable(url: str) -> str:
    """The address without its password."""
    return re.sub(r"//[^@/]*@", "//", url)


@contextmanager
def translated(operation: str, url: str) -> Iterator[None]:
    """Raises PeerLost (unreachable, too slow, not the primary), Refused (credentials) or Internal."""
    try:
        yield
    except (errors.AuthenticationError, errors.NoPermissionError) as error:
        raise Refused(f"{operation}: registry {printable(url)} refused the credentials: {error}") from error
    except (errors.ConnectionError, errors.TimeoutError, errors.BusyLoadingError, errors.ReadOnlyError) as error:
        raise PeerLost(f"{operation}: registry {printable(url)} cannot be reached: {error}") from error
    except errors.ResponseError as error:
        # A replica that lost its primary, or one that was just demoted, says so in the text alone.
        if str(error).startswith(("READONLY", "MASTERDOWN", "UNBLOCKED", "NOREPLICAS")):
            raise PeerLost(f"{operation}: registry {printable(url)} cannot serve now: {error}") from error
        raise Internal(f"{operation}: registry {printable(url)} answered: {error}") from error
    except errors.RedisError as error:
        raise Internal(f"{operation}: registry {printable(url)}: {error}") from error
