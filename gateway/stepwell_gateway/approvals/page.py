"""The page of a link. It loads nothing, is kept by nobody, and tells no other site where it was."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse

if TYPE_CHECKING:
    from stepwell.domain.approvals import Approval

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none';"
    " base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:3rem auto;padding:0 1rem;color:#222;background:#fff}"
    "p.message{white-space:pre-wrap;overflow-wrap:anywhere;border-left:4px solid #888;padding-left:1rem}"
    "textarea{width:100%;box-sizing:border-box;font:inherit}button{font:inherit;padding:.5rem 1.5rem;margin:1rem 1rem 0 0}"
)


def shown(approval: Approval) -> HTMLResponse:
    """The question with its form, or how it was decided."""
    about = f"<p>Workflow <b>{escape(approval.workflow)}</b>, step <b>{escape(approval.step)}</b></p>"
    message = f'<p class="message">{escape(approval.message)}</p>' if approval.message else ""
    return _page("Approval", about + message + (_form() if _is_open(approval) else f"<p>{_state(approval)}</p>"))


def said(title: str, text: str, status: int) -> HTMLResponse:
    """A page that says one thing."""
    return _page(title, f"<p>{escape(text)}</p>", status)


def _is_open(approval: Approval) -> bool:
    return approval.live and approval.decision is None


def _state(approval: Approval) -> str:
    if approval.decision is None:
        return "The run is over; nothing waits for a decision any more."
    return f"It was {'approved' if approval.decision.approved else 'rejected'}. The link was good for one decision."


def _form() -> str:
    return (
        '<form method="post"><label>Comment<br><textarea name="comment" rows="3" maxlength="4096"></textarea></label>'
        '<button name="decision" value="approve">Approve</button><button name="decision" value="reject">Reject</button></form>'
    )


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>"
    )
    return HTMLResponse(text, status, HEADERS)
