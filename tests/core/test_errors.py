"""Messages of errors, whatever a file has put into them."""

from unijax.core.errors import UserError


def test_what_a_terminal_would_obey_is_escaped_and_what_is_text_stays():
    name = "\x1b]0;title\x07\x1b[2J\r\x9b1m\u202e\ud800"
    said = str(UserError(name, "a\nb\tc", "d\u3000\xa0e", "é 漢 🙂"))
    assert said.startswith(r"\x1b]0;title\x07\x1b[2J\r\x9b1m\u202e\ud800: found a")
    assert "a\nb\tc; expected d\u3000\xa0e. é 漢 🙂" in said


def test_a_message_is_no_longer_than_people_read():
    """One of 400,000 roles of a conversation had 2.4 million characters."""
    said = str(UserError("here", "a" * 10**6 + "the end", "b", "c"))
    assert len(said) < 5000
    assert "the end; expected b" in said
