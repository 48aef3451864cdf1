"""Answers that browsers keep as a file."""

from __future__ import annotations

from starlette.responses import Response


def download(content: bytes, media: str, name: str) -> Response:
    """A file; characters that no header takes are replaced in its name."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    headers = {"Content-Disposition": f'attachment; filename="{safe}"'}
    return Response(content, media_type=media, headers=headers)
