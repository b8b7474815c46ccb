from pathlib import Path

import pytest

from ahm_env.errors import ImageError
from ahm_env.images.formats.files import Files
from ahm_env.images.formats.labels import Labels, has_table, plain, spelt_alike

NAMES = ("a.png", "b.png", "c.jpg")


@pytest.fixture
def images() -> Files:
    return Files(NAMES)


def read(tmp_path: Path, images: Files, text: str | bytes) -> Labels:
    table = tmp_path / "labels.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Labels(table, images)


def found(labels: Labels) -> list[tuple[int, int]]:
    return [labels.find(position)[:2] for position in range(len(NAMES))]


@pytest.mark.parametrize(
    "text",
    [
        "image,label,split\na.png,MEL,train\nb.png,NV,val\nc.jpg,MEL,test\n",
        "image,label,split\na,MEL,train\nb,NV,val\nc,MEL,test\n",
        "\ufeffImage;Label;Split\r\na;MEL;Train\r\nb;NV;VAL\r\nc;MEL;test\r\n",
        "split\tlabel\timage\ntrain\tMEL\ta\nval\tNV\tb\ntest\tMEL\tc",
        'image,label,split\n"a.png", MEL , train\n\n,,\nb.png,NV,val\nc.jpg,"MEL",test\n',
        "id,image,age,label,split\n1,c.jpg,50,MEL,test\n2,a.png,,MEL,train\n3,b.png,7,NV,val\n",
    ],
)
def test_tables_in_many_spellings_say_the_same(tmp_path: Path, images: Files, text: str) -> None:
    labels = read(tmp_path, images, text)
    assert labels.classes == ("MEL", "NV")
    assert labels.problems == []
    assert found(labels) == [(0, 0), (1, 1), (0, 2)]


def test_without_label_and_split_an_image_is_unknown_and_for_training(tmp_path: Path, images: Files) -> None:
    labels = read(tmp_path, images, "image\na\nb\nc\n")
    assert labels.classes == ()
    assert found(labels) == [(-1, 0)] * 3


def test_empty_and_missing_cells_are_unknown_and_for_training(tmp_path: Path, images: Files) -> None:
    labels = read(tmp_path, images, "image,label,split\na,,\nb,NV,\nc\n")
    assert labels.classes == ("NV",)
    assert found(labels) == [(-1, 0), (0, 0), (-1, 0)]


def test_an_image_without_a_line_is_named(tmp_path: Path, images: Files) -> None:
    labels = read(tmp_path, images, "image,label\na,NV\n")
    assert labels.find(1).trouble == f"not in {tmp_path}/labels.csv; add a line for it, or take the image out"


def test_an_unknown_split_is_named(tmp_path: Path, images: Files) -> None:
    labels = read(tmp_path, images, "image,split\na,holdout\nb,val\nc,test\n")
    assert labels.find(0).trouble == f"split is 'holdout' in {tmp_path}/labels.csv; use one of: train, val, test"
    assert labels.find(1) == (-1, 1, "", "")


def test_lines_without_an_image_and_second_lines_are_problems(tmp_path: Path, images: Files) -> None:
    labels = read(tmp_path, images, "image,label\na,NV\nzzz.png,MEL\na.png,MEL\nb,NV\nc,NV\n")
    assert len(labels.problems) == 2
    assert "labels.csv: line 3 names 'zzz.png', which is not there; " in labels.problems[0]
    assert "labels.csv: line 4 names 'a.png' again; " in labels.problems[1]
    assert labels.classes == ("NV",)


@pytest.mark.parametrize("text", ["", "name,label\na,NV\n", "a.png,NV\n"])
def test_a_table_without_an_image_column_is_refused(tmp_path: Path, images: Files, text: str) -> None:
    with pytest.raises(ImageError, match=r"labels\.csv: no column `image` in its first line"):
        read(tmp_path, images, text)


@pytest.mark.parametrize("content", [b"image,label\na,M\xfcller\n", b"image\n\xff\xfe\x00", b'image,label\na,"open\n'])
def test_what_is_not_csv_in_utf8_is_refused_in_one_line(tmp_path: Path, images: Files, content: bytes) -> None:
    with pytest.raises(ImageError, match=r"labels\.csv: not a CSV file in UTF-8 .*; save it as `CSV UTF-8`") as caught:
        read(tmp_path, images, content)
    assert "\n" not in str(caught.value)


def test_patients_get_pseudonyms_that_are_the_same_for_the_same_number(tmp_path: Path, images: Files) -> None:
    labels = read(tmp_path, images, "image,patient\na,MUELLER\nb, \nc,MUELLER\n")
    first, none, second = (labels.find(position).patient for position in range(len(NAMES)))
    assert (first, none) == (second, "")
    assert len(first) == 16
    assert "MUELLER" not in first


@pytest.mark.parametrize("line", ["a,nevus, atypical,P1", "a,nevus,P1,x"])
def test_a_line_with_more_cells_than_the_first_is_an_error(tmp_path: Path, images: Files, line: str) -> None:
    with pytest.raises(ImageError, match=r"labels\.csv: line 3 has 4 cells but the first line 3 columns; put a cell"):
        read(tmp_path, images, f"image,label,patient\nb,x,P2\n{line}\n")


def test_two_columns_of_one_name_are_refused(tmp_path: Path, images: Files) -> None:
    with pytest.raises(ImageError, match=r"has two columns of one name \(label\)"):
        read(tmp_path, images, "image,Label,label,,\na,x,y,,\nb,x,y,,\n")


def test_a_table_in_capitals_is_not_passed_over(tmp_path: Path) -> None:
    assert not has_table(tmp_path / "labels.csv")
    (tmp_path / "Labels.CSV").write_text("image,label\na,x\n")
    with pytest.raises(ImageError, match=r"Labels\.CSV: is not read for its name; rename it to labels\.csv"):
        has_table(tmp_path / "labels.csv")


def test_blank_cells_after_the_last_column_do_no_harm(tmp_path: Path, images: Files) -> None:
    labels = read(tmp_path, images, "image,label\na,x,, \nb,y,\nc,x\n")
    assert (labels.classes, labels.problems, labels.warnings) == (("x", "y"), [], [])


@pytest.mark.parametrize("blank", ["nan", "NA", "NaN", "None", "<NA>", "N/A", "null", "NaT", ""])
def test_what_stands_for_blank_is_blank(tmp_path: Path, images: Files, blank: str) -> None:
    labels = read(tmp_path, images, f"image,label,split,patient\na,x,{blank},{blank}\nb,{blank},val,{blank}\nc,y,,1\n")
    assert labels.classes == ("x", "y")
    assert labels.find(0) == (0, 0, "", "")
    assert labels.find(1) == (-1, 1, "", "")


def test_numbers_are_compared_as_numbers(tmp_path: Path, images: Files) -> None:
    labels = read(tmp_path, images, "image,label,patient\na,1,7\nb,1.0,7.0\nc,10.00,007\n")
    assert labels.classes == ("1", "10")
    assert found(labels) == [(0, 0), (0, 0), (1, 0)]
    (first, second, other) = (labels.find(position).patient for position in range(3))
    assert first == second != other


def test_numbers_are_shortened_and_not_rounded() -> None:
    long = "12345678901234567890123456789"
    for cell in ("0", "7", "0e7", "12e3", "1E5", "007", "-0.5", f"{long}0", f"{long}9", f"{long}.{long}"):
        assert plain(cell) == cell
    assert [plain(cell) for cell in ("-0.0", "+1.50", "100.0", ".5", "5.", f"{long}.0")] == [
        *("0", "1.5", "100", "0.5", "5"),
        long,
    ]
    assert spelt_alike([f"{long}0", f"{long}9", "0e7", "0e8", f"{long}0.0"]) == [f"{long}0", f"{long}0.0"]


ALIKE = [("Benign", "benign"), ("N\u00e4vus", "Na\u0308vus"), ("a b", "a  b"), ("x", "x\u200b")]


@pytest.mark.parametrize("pair", ALIKE)
def test_names_in_two_spellings_are_told(tmp_path: Path, images: Files, pair: tuple[str, str]) -> None:
    labels = read(tmp_path, images, f"image,label,patient\na,{pair[0]},1\nb,{pair[1]},2\nc,other,3\n")
    (problem,) = labels.problems
    assert "differ only in case or in how letters or numbers are written" in problem
    assert all(name in problem for name in pair)
    labels = read(tmp_path, images, f"image,patient\na,{pair[0]}\nb,{pair[1]}\nc,other\n")
    assert labels.problems == []
    (warning,) = labels.warnings
    assert (warning.kind, warning.count) == ("patients", 2)
    assert "2 patients differ from others only in case" in warning.text
    assert pair[0] not in warning.text


def test_one_number_written_in_two_ways_is_told(tmp_path: Path, images: Files) -> None:
    labels = read(tmp_path, images, "image;label;patient\na;01;P1\nb;1;P2\nc;2;P3\n")
    (problem,) = labels.problems
    assert "differ only in case or in how letters or numbers are written (01, 1); spell each class" in problem
    assert spelt_alike(["1,5", "1.50", "15", "2", "x1", "x01", "x", "-1"]) == ["1,5", "1.50"]


@pytest.mark.parametrize(
    ("header", "warned", "noted"),
    [
        (
            "image,class,split,Patient_ID",
            "class, patient_id; if one of them is what should be in `label` or",
            "",
        ),
        ("image,label,patient,fold", "fold; if one of them is what should be in `split`, rename it", ""),
        ("image,label,split,patient,age,,sex", "", "age, sex"),
        ("image,label", "", ""),
    ],
)
def test_columns_that_are_not_read_are_told(
    tmp_path: Path, images: Files, header: str, warned: str, noted: str
) -> None:
    lines = "".join(f"{name}{',' * header.count(',')}\n" for name in "abc")
    labels = read(tmp_path, images, f"{header}\n{lines}")
    start = f"{tmp_path}/labels.csv: columns that are not read: "
    assert [warning.text.startswith(start + warned) for warning in labels.warnings] == [True] * bool(warned)
    assert labels.notes == [start + noted] * bool(noted)
