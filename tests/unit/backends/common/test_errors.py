from __future__ import annotations

from backends.common.errors import MEANINGS, Code, ServiceError

# contract.md, and `lock_lost`; "The two services", codes; (r) = retryable.
CONTRACT = """
invalid_argument workspace_required workspace_mismatch path_refused 400
remote_refused remote_auth_failed copy_refused 403
unknown_workspace not_found 404
workspace_busy(r) conflict nothing_to_commit idempotency_in_progress(r) outcome_unknown diverged lock_lost 409
too_large 413
idempotency_mismatch git_failed 422
rate_limited(r) 429
internal 500
locks_unavailable(r) sandbox_unavailable(r) 503
deadline 504
"""


def test_codes_have_the_status_and_the_retryability_of_the_contract() -> None:
    expected = {}
    for line in CONTRACT.split("\n"):
        *codes, status = line.split() or [""]
        for code in codes:
            expected[code.removesuffix("(r)")] = (int(status), code.endswith("(r)"))
    assert {code.value: (meaning.status, meaning.retryable) for code, meaning in MEANINGS.items()} == expected
    assert set(MEANINGS) == set(Code)


def test_an_error_says_code_message_and_whether_a_retry_may_help() -> None:
    error = ServiceError(Code.WORKSPACE_BUSY, "wait")
    assert error.content() == {"code": "workspace_busy", "message": "wait", "retryable": True}
