"""How messages name roles."""

from sensitivity.workflows.audit.wording import some_roles


def test_roles_are_shortened_where_they_begin_alike() -> None:
    """What roles share in front is said once."""
    assert some_roles(["a.b.c", "a.b.d"]) == "a.b.{c, d}"
    assert some_roles(["a.b", "c.b"]) == "a.b, c.b"
    assert some_roles(["a.b", "a.b"]) == "a.b"
    assert some_roles(["a.b", "a.c", "a.d", "a.e"]) == "a.{b, c, d} and 1 more"
    assert some_roles(["a", "a.b"]) == "a, a.b"
