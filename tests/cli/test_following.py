"""A search that is followed in Python."""

from typing import Any

import pytest

import sensitivity
from sensitivity.cli.render import following
from sensitivity.errors import UserError
from sensitivity.workflows.requests import SearchRequest


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the workflow is called with, in place of a search; it says one line."""
    found: dict[str, Any] = {}

    def find_recipe(model: Any, request: Any, **hooks: Any) -> str:
        found.update(model=model, request=request, **hooks)
        hooks["say"]("drawing with `arithmetic` mslk")
        return "the outcome"

    monkeypatch.setattr(following.find, "find_recipe", find_recipe)
    return found


def test_a_name_is_enough(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a request everything has its default, and nothing is shown."""
    assert sensitivity.find_recipe("tiny-flux") == "the outcome"
    assert asked["model"] == "tiny-flux"
    assert asked["request"] == SearchRequest()
    assert capsys.readouterr() == ("", "")


def test_progress_is_plain_lines_where_there_is_no_terminal(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's kernel asks for colours and is no terminal. Fields keep their names."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    request = SearchRequest(budget=3)
    sensitivity.find_recipe("tiny-flux", request, progress=True)
    assert asked["request"] is request
    assert capsys.readouterr().out == "drawing with `arithmetic` mslk\n"


def test_something_else_than_a_request_is_refused() -> None:
    """The message says what to write."""
    wrong: Any = {"budget": 3}
    with pytest.raises(UserError, match=r"`request` is a dict; .* SearchRequest\(budget=50\)"):
        sensitivity.find_recipe("tiny-flux", wrong)
