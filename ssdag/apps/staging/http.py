# SPDX-License-Identifier: BSD-3-Clause
"""Files of web servers; they are only read."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ssdag.apps.staging.base import RemoteStaging, transient
from ssdag.errors import MissingDataError, StagingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.apps.files import File

_CHUNK_BYTES = 1 << 20
#: Answers after which another attempt may help.
_MOMENTARY = (408, 425, 429, 500, 502, 503, 504)


class HttpStaging(RemoteStaging):
    """Files that ``http:`` and ``https:`` URLs name.

    An answer that is no success, or that ends before its stated length, is an error.
    Proxies are those of the environment. A server that tells neither when a file was
    changed (``Last-Modified``) nor its version (``ETag``) is asked for it by each task.

    Parameters
    ----------
    timeout_s : float
        Longest time in which nothing may come.
    """

    schemes: tuple[str, ...] = ("http", "https")

    def __init__(self, timeout_s: float = 60.0) -> None:
        self.timeout_s = timeout_s

    def can_stage_out(self, file: File) -> bool:
        """Return False: web servers have no agreed way to take a file."""
        return False

    def version(self, file: File) -> str:
        """See :meth:`RemoteStaging.version`; asks by HEAD."""
        try:
            with self._open(file, "HEAD") as answer:
                headers = answer.headers
        except StagingError as error:
            if isinstance(error.__cause__, urllib.error.HTTPError) and not error.transient:
                return ""  # many servers answer GET only: that one will tell
            raise
        tags = [headers.get(name) for name in ("ETag", "Last-Modified")]
        if not any(tags):
            return ""
        return "\n".join(str(tag) for tag in (*tags, headers.get("Content-Length")))

    def fetch(self, file: File, target: str) -> None:
        """See :meth:`RemoteStaging.fetch`."""
        with self._open(file, "GET") as answer, open(target, "xb") as out:
            length = answer.headers.get("Content-Length")
            came = 0
            while chunk := _read(answer):
                out.write(chunk)
                came += len(chunk)
            out.flush()
            os.fsync(out.fileno())
        if length is not None and length.isdigit() and came != int(length):
            raise transient(f"the answer ended after {came} of {length} bytes")

    @contextmanager
    def _open(self, file: File, method: str) -> Iterator[http.client.HTTPResponse]:
        request = urllib.request.Request(
            file.url.partition("#")[0], method=method, headers={"User-Agent": "ssdag"}
        )
        try:
            answer = urllib.request.urlopen(request, timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise MissingDataError(
                    f"{request.host}: there is no {request.selector.partition('?')[0]}"
                ) from error
            found = StagingError(f"the server answered {error.code} {error.reason}")
            found.transient = error.code in _MOMENTARY
            raise found from error
        except urllib.error.URLError as error:
            raise transient(f"the server is not reached: {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            raise transient(f"no answer: {error or type(error).__name__}") from error
        except ValueError as error:  # a port that is no number
            raise StagingError(str(error)) from error
        with answer:
            yield answer


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise transient(f"the answer broke off: {error or type(error).__name__}") from error
