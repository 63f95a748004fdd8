"""The parts of a report: numbers in words, and tables."""

from lesionforge.auditing.audit_page import html_table, interval, number, percent, with_interval


def test_numbers_in_words() -> None:
    assert percent(0.1234) == "12.3\N{NO-BREAK SPACE}%"
    assert percent(None) == number(None) == "–"
    assert number(0.00123456) == "0.00123"
    assert number(12345.6) == "12,346"
    assert interval({"low": None, "high": None}, number) == "no interval"
    assert with_interval(0.5, 0.25, 0.75) == "0.5 [0.25, 0.75]"
    assert with_interval(0.5, None, None) == "0.5"


def test_no_number_is_written_as_a_power_of_ten() -> None:
    assert percent(1.39e-17) == "0.000000\N{NO-BREAK SPACE}%"
    assert number(-0.0000123) == "-0.000012"
    assert (number(0.0), number(0.0001), number(999.7)) == ("0", "0.0001", "1,000")
    assert percent(9.9997) == "1,000\N{NO-BREAK SPACE}%"


def test_a_table_marks_its_numbers() -> None:
    table = html_table(["name", "#count"], [["<b>a</b>", "3"]])
    assert "<th>name</th><th class=number>count</th>" in table
    assert "<td><b>a</b></td><td class=number>3</td>" in table
