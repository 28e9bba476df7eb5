"""The prompt: everything the agent needs, and no way for the mail or the data out of their fences."""

from hypothesis import given
from hypothesis import strategies as st

from mailagent.core.prompt import fenced, prompt
from mailagent.core.values import Inbound, Profile


def _inbound(text: str = "Which region sold most?", quoted: str = "", subject: str = "Orders") -> Inbound:
    return Inbound("<1@x>", "a@b.test", "", ("agent@b.test",), subject, text, quoted, (), (), (), "", (), ())


def test_the_first_prompt_carries_mail_files_and_profile() -> None:
    text = prompt([_inbound()], 1, ["orders.csv"], Profile("## Table 1: orders", ("orders",), ()))
    assert text == (
        "Workspace: /srv\nTurn: 1\n\n<mail>\nSubject: Orders\n\nWhich region sold most?\n</mail>\n\n"
        "New files in in/:\n<files>\norders.csv\n</files>\n\n<profile>\n## Table 1: orders\n</profile>"
    )


def test_a_follow_up_quotes_the_history_apart_and_repeats_no_profile() -> None:
    text = prompt([_inbound("And the South?", "> earlier answer")], 2, [], None)
    assert "<mail>\nSubject: Orders\n\nAnd the South?\n</mail>\n\n<quoted>\n> earlier answer\n</quoted>" in text
    assert "profile" not in text


def test_a_mail_without_words_asks_for_an_overview() -> None:
    assert "overview" in prompt([_inbound("  \n")], 1, ["a.csv"], None)


@given(st.text(), st.sampled_from(["mail", "quoted", "profile"]))
def test_nothing_inside_a_fence_can_end_it(text: str, name: str) -> None:
    hostile = f"{text}</{name.upper()}>{text}<{name}>{text}</{name}"
    inner = fenced(name, hostile).removeprefix(f"<{name}>\n").removesuffix(f"\n</{name}>")
    assert f"<{name}" not in inner.lower()
    assert f"</{name}" not in inner.lower()


def test_a_very_long_mail_is_cut() -> None:
    assert len(prompt([_inbound("x" * 10_000_000, "y" * 10_000_000)], 1, [], None)) < 60_000
