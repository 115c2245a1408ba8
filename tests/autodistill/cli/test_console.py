"""What commands print: sentences in one line, tables without breaks, and text as it is."""

from __future__ import annotations

from rich.table import Table

from autodistill.cli.console import print_line, print_table


def test_sentence_is_one_line_however_long_it_is(capsys):
    line = "word " * 200 + "end"
    print_line(line)
    assert capsys.readouterr().out == line + "\n"


def test_markup_in_a_sentence_is_text(capsys):
    print_line("[bold]layers[/bold] ['a', 1] :smile:")
    assert capsys.readouterr().out == "[bold]layers[/bold] ['a', 1] :smile:\n"


def test_sentence_for_standard_error_is_printed_there(capsys):
    print_line("error", stderr=True)
    assert capsys.readouterr() == ("", "error\n")


def test_control_characters_in_a_sentence_are_shown_and_line_breaks_kept(capsys):
    print_line("no \x1b[2J\x9b2J here\nbut here")
    assert capsys.readouterr().out == "no \\x1b[2J\\x9b2J here\nbut here\n"


def test_table_without_a_terminal_has_no_broken_lines(capsys):
    cells = [letter * 60 for letter in "abcd"]
    table = Table(box=None, pad_edge=False)
    for heading in ("first", "second", "third", "fourth"):
        table.add_column(heading)
    table.add_row(*cells)
    print_table(table)
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["first", "second", "third", "fourth"]
    assert row.split() == cells
