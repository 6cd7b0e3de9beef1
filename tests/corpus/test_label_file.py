"""Files of class names: what is read, in which order, and every refusal with its line and remedy."""

import logging
from pathlib import Path

import pytest

from foodray.corpus.label_file import ClassText, read_label_file
from foodray.errors import ConfigError


def write(folder: Path, text: str | bytes, name: str = "names.tsv") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def row(class_name: str, text: str, frequency: str | None = None) -> ClassText:
    return ClassText(class_name=class_name, text=text, frequency=frequency)


FILE = "class_id\tclass_name\tname_zh\n0\tapple_pie\t苹果派\n1\tsushi\t寿司\n"


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_come_in_the_order_of_the_labels(before: bytes, end: str, tmp_path: Path) -> None:
    path = write(tmp_path, before + FILE.replace("\n", end).encode())
    assert read_label_file(path, ["sushi", "apple_pie"], text_column="name_zh") == (row("sushi", "寿司"), row("apple_pie", "苹果派"))


def test_commas_separate_a_csv_file_and_the_class_name_may_be_the_text(tmp_path: Path) -> None:
    path = write(tmp_path, 'class_name,name_en\nsushi,"sushi, maki"\n', "names.CSV")
    assert read_label_file(path, ["sushi"], text_column="name_en") == (row("sushi", "sushi, maki"),)
    assert read_label_file(path, ["sushi"], text_column="class_name") == (row("sushi", "sushi"),)


def test_a_quoted_name_holds_tabs_quotes_and_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path, 'class_name\tname\na\t"one\ttab"\nb\t"a ""quote"""\nc\t"two\nlines"\nd\t6" pizza\n')
    rows = read_label_file(path, ["a", "b", "c", "d"], text_column="name")
    assert [one.text for one in rows] == ["one\ttab", 'a "quote"', "two\nlines", '6" pizza']


def test_the_frequency_is_its_own_cell_whatever_letters_the_names_hold(tmp_path: Path) -> None:
    lines = ["class_name\tname\tfrequency", "f\tcrab f\tr", "c\trare beef\tfrequent", "r\tc\tcommon", "fcr\tf c r\tc", "x\tf\tf", "y\tf r\trare"]
    rows = read_label_file(write(tmp_path, "\n".join(lines)), ["f", "c", "r", "fcr", "x", "y"], text_column="name")
    assert [one.frequency for one in rows] == ["rare", "frequent", "common", "common", "frequent", "rare"]


def test_blank_lines_and_blanks_around_cells_do_not_count(tmp_path: Path) -> None:
    path = write(tmp_path, "class_name\t name \n\n\t\na \t two words \n\n")
    assert read_label_file(path, ["a"], text_column="name") == (row("a", "two words"),)


def test_other_classes_are_left_out_with_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert len(read_label_file(write(tmp_path, FILE), ["sushi"], text_column="name_zh")) == 1
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == ["1 classes that the corpus does not have are left out"]


def test_classes_of_the_same_text_are_named_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "class_name\tname\nfries\tchips\ncrisps\tchips\nsoup\tsoup\n")
    assert [one.text for one in read_label_file(path, ["crisps", "soup", "fries"], text_column="name")] == ["chips", "soup", "chips"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith("'chips' (crisps, fries)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"class_name\tname\na\t\xc6\xbb\xb9\xfb\n", r"line 2: is not UTF-8 \(byte 0xb9\); save the file as UTF-8"),
        ("class_name\tname\n".encode("utf-16"), "line 1: is not UTF-8"),
        ("", r"line 1: there is no column 'class_name'.* the file is empty"),
        ("class\tname\na\tb\n", "line 1: there is no column 'class_name' in its header; did you mean 'class'"),
        ("class_name\tname_zh\na\tb\n", "line 1: there is no column 'name' in its header; did you mean 'name_zh'"),
        ("class_name,name\na,b\n", "cells seem to be separated by another sign"),
        ("class_name\tname\tname\na\tb\tc\n", "column 'name' is there twice"),
        (
            "class_name\tname\na\tb\nb\tone\ttab\n",
            r"line 3: has 3 cells, the header has 2 \('b', 'one', 'tab'\); put a name that holds the separator in double",
        ),
        ("class_name\tname\na\n", "line 2: has 1 cells, the header has 2"),
        ("class_name\tname\na\tb\n\na\tc\n", "line 4: class 'a' is named twice, first in line 2; keep one"),
        ('class_name\tname\na\t"b\nc"\nd\t\n', "line 4: the cell of name is empty for 'd'; fill it"),
        ("class_name\tname\n\tb\n", "line 2: the cell of class_name is empty; fill it"),
        ('class_name\tname\na\tb\nc\t"open\nd\te\n', "line 3: unexpected end of data; a cell that begins with a quote"),
        ('class_name\tname\na\t"b" c\n', "line 2: .*a cell that begins with a quote"),
        ("class_name\tname\tfrequency\na\tb\tcomon\n", "line 2: frequency = 'comon' of 'a' is unknown; did you mean 'common'"),
        ("class_name\tname\tfrequency\na\tb\t\n", "line 2: frequency = '' of 'a' is unknown; choose from: frequent, common, rare, f, c, r"),
        ("class_name\tname\nb\tc\n", r"1 of the 1 classes of the corpus have no line \('a'\); add one for each"),
    ],
)
def test_a_bad_file_is_refused_with_line_and_remedy(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_label_file(write(tmp_path, text), ["a"], text_column="name")
    assert "names.tsv" in str(caught.value)


def test_of_many_missing_classes_the_first_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"8 of the 9 classes of the corpus have no line \('1', '2', '3', '4', '5' …\)"):
        read_label_file(write(tmp_path, "class_name\tname\n0\tzero\n"), [str(number) for number in range(9)], text_column="name")


@pytest.mark.parametrize(("name", "message"), [("names.txt", "is a .tsv .* or .csv"), ("absent.tsv", "cannot be read"), (".tsv", "by its suffix")])
def test_a_file_that_is_no_table_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_label_file(str(tmp_path / name), ["a"], text_column="name")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "names.tsv").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_label_file(str(tmp_path / "names.tsv"), ["a"], text_column="name")


def test_the_chinese_names_of_the_long_tail_are_read(data: Path) -> None:
    path = data / "longtail" / "classes.tsv"
    labels = [line.split("\t")[1] for line in path.read_text().splitlines()[1:]]
    rows = read_label_file(str(path), labels, text_column="name_zh")
    assert len(rows) == 101
    assert rows[0] == row("apple_pie", "苹果派")
