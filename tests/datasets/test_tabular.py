"""Tables: the schema decides, a bad row is left out with its reason, sites scale alike or alone."""

import io
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from wardround.datasets import phantom
from wardround.datasets.cohort import add
from wardround.datasets.errors import CohortInvalid, DataError, SchemaInvalid
from wardround.datasets.tabular import open_table, read_table
from wardround.datasets.tabular_features import Scaler
from wardround.datasets.tabular_moments import FEWEST, row_moments, scaler, schema_lines
from wardround.datasets.tabular_schema import Schema

KEY = bytes(range(32))
TEXT = """
[table]
patient = "who"
[target]
column = "out"
classes = { no = ["0"], yes = ["1", "2"] }
[columns.age]
type = "integer"
range = [0, 120]
[columns.dose]
type = "number"
range = [-5, 5.5]
missing = ["-9"]
[columns.sex]
type = "category"
categories = ["f", "m", "1"]
"""
SCHEMA = Schema.from_toml(TEXT)
HEAD = "who,age,dose,sex,out\n"


def codes(rows: str, schema: Schema = SCHEMA) -> list[tuple[str, str]]:
    table = read_table((HEAD + rows).encode(), schema)
    return [(finding.where, finding.code) for finding in table.findings]


def test_rows_are_read_by_the_schema() -> None:
    table = read_table((HEAD + "a,50,1.5,f,0\nb,60,-9,m,2\nc,?,,1.0,1.0\n").encode(), SCHEMA)
    assert [(row.label, row.values) for row in table.rows] == [
        ("no", (50.0, 1.5, "f")),
        ("yes", (60.0, None, "m")),
        ("yes", (None, None, "1")),
    ]
    assert [row.patient for row in table.rows] == ["a", "b", "c"]
    assert "50" not in repr(table.rows[0])


def test_each_bad_row_is_left_out_with_its_reason() -> None:
    rows = "a,121,0,f,0\nb,50.5,0,f,0\nc,old,0,f,0\nd,50,0,x,0\ne,50,0,f,7\nf,50,0\n,50,0,f,0\n"
    rows += "h,50,inf,f,0\ni,50,nan,f,0\nj,50,0,f,\nk,50,0,f,1\n"
    assert codes(rows) == [
        ("row 1", "value-range"),
        ("row 2", "value-type"),
        ("row 3", "value-type"),
        ("row 4", "value-category"),
        ("row 5", "value-category"),
        ("row 6", "row-cells"),
        ("row 7", "row-patient"),
        ("row 8", "value-type"),
        ("row 9", "value-type"),
        ("row 10", "row-class"),
    ]


def test_no_value_of_a_patient_is_in_a_finding() -> None:
    table = read_table((HEAD + "Jane Roe,121,0,f,0\nb,Mueller,0,f,0\n").encode(), SCHEMA)
    told = " ".join(f"{f!r} {f.what} {f.where}" for f in table.findings)
    assert not any(word in told for word in ("Jane", "121", "Mueller"))


def test_a_new_category_may_count_as_missing() -> None:
    lenient = Schema.from_toml(TEXT.replace('"who"', '"who"\nbad_values = "missing"', 1))
    table = read_table((HEAD + "a,50,1,new,0\n").encode(), lenient)
    assert table.rows[0].values == (50.0, 1.0, None)
    features = Scaler.fit(table.rows, lenient).apply(table.rows[0], lenient)
    assert features.tolist()[2:] == [0, 0, 0]


def test_whole_rows_only() -> None:
    whole = Schema.from_toml(TEXT.replace('"who"', '"who"\nincomplete = "leave out"', 1))
    assert codes("a,50,1,f,0\nb,?,1,f,0\n", whole) == [("row 2", "value-missing")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"who,age,sex,out\n", "no column 'dose'"),
        (b"who,age,age,dose,sex,out\n", "two columns"),
        ("who,age,dose,sex,out\nM\xfcller,5,1,f,0\n".encode("latin-1"), "UTF-8"),
        ("who,age,dose,sex,out\n1,5,1,f,0\n".encode("utf-16"), "UTF-8"),
        (b"PK\x03\x04" + bytes(300), "UTF-8"),
        (b'who,age,dose,sex,out\n"' + b"x" * 200_000, "not CSV: at or before line 2 "),
        (b"who;age;dose;sex;out\na;5;1;f;0\n", """parted by ';'.*delimiter = ";\""""),
        (b"who\tage\tdose\tsex\tout\n", r'delimiter = "\\t"'),
        (b"PAR1 but not really", "Parquet"),
        (b"", "no column"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_table(data, SCHEMA)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    columns = {
        "who": ["a", "b", "c"],
        "age": [50, None, 70],
        "dose": [1.5, -9.0, 2.0],
        "sex": ["f", "m", "f"],
        "out": [0, 1, 2],
        "secret": ["x", "y", "z"],
    }
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    text = HEAD + "a,50,1.5,f,0\nb,,-9,m,1\nc,70,2.0,f,2\n"
    assert read_table(file.getvalue(), SCHEMA) == read_table(text.encode(), SCHEMA)
    with pytest.raises(DataError, match="Parquet"):
        read_table(file.getvalue()[:-20], SCHEMA)


def test_text_that_parquet_holds_as_bytes_is_text(tmp_path: Path) -> None:
    columns = {"who": [b"a"], "age": [50], "dose": [1.5], "sex": [b"f"], "out": [0]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    (row,) = read_table((tmp_path / "x.parquet").read_bytes(), SCHEMA).rows
    assert (row.patient, row.values) == ("a", (50.0, 1.5, "f"))


def test_a_record_number_written_as_a_decimal_is_the_same_patient() -> None:
    table = read_table((HEAD + "17,50,1,f,0\n17.0,51,1,f,0\n0017,52,1,f,0\n").encode(), SCHEMA)
    assert [row.patient for row in table.rows] == ["17", "17", "0017"]


def test_a_parquet_bomb_is_refused_by_its_footer(monkeypatch: pytest.MonkeyPatch) -> None:
    from wardround.datasets import tabular

    columns = {name: ["0"] * 100_000 for name in ("who", "age", "dose", "sex", "out")}
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    monkeypatch.setattr(tabular, "MAX_ROWS", 99_999)
    with pytest.raises(DataError, match="too large: 100,000 rows"):
        read_table(file.getvalue(), SCHEMA)


def test_a_table_file_is_opened_with_care(tmp_path: Path) -> None:
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(4 * 2**30)
    (tmp_path / "empty.csv").write_bytes(b"")
    for name, reason in (("huge", "too large"), ("empty", "zero bytes"), ("none", "not there")):
        with pytest.raises(DataError, match=reason) as caught:
            open_table(tmp_path / f"{name}.csv")
        assert name + ".csv" not in str(caught.value)


def test_a_file_without_header_and_another_delimiter() -> None:
    text = TEXT.replace(
        '"who"', '"who"\nnames = ["who", "age", "dose", "sex", "out"]\ndelimiter = ";"', 1
    )
    table = read_table(b"a;50;1;f;0\n\nb;60;1;m;1\n", Schema.from_toml(text))
    assert [row.label for row in table.rows] == ["no", "yes"]


def test_features_are_decided_by_the_schema_alone() -> None:
    assert SCHEMA.features == ("age", "dose", "sex=f", "sex=m", "sex=1")
    short = Schema.from_toml(TEXT.replace('"who"', '"who"\ndrop_first = true', 1))
    assert short.features == ("age", "dose", "sex=m", "sex=1")
    row = read_table((HEAD + "a,50,1,1,0\n").encode(), short).rows[0]
    assert Scaler.fit([row], short).apply(row, short).shape == (4,)


def test_site_scaling_is_mean_and_deviation_of_its_rows() -> None:
    schema = Schema.from_toml(TEXT.replace('"who"', '"who"\nscaling = "site"', 1))
    rows = read_table((HEAD + "a,40,1,f,0\nb,60,,m,1\nc,?,3,f,0\n").encode(), schema).rows
    scaling = Scaler.fit(rows, schema)
    values = np.stack([scaling.apply(row, schema) for row in rows])
    np.testing.assert_allclose(values[:, 0], [-(0.5**0.5), 0.5**0.5, 0], atol=1e-6)
    np.testing.assert_allclose(values[:, 1], [-(0.5**0.5), 0, 0.5**0.5], atol=1e-6)
    assert "50" not in repr(scaling)
    assert Scaler.from_bytes(scaling.to_bytes(), schema) == scaling
    with pytest.raises(CohortInvalid, match="does not fit the schema"):
        Scaler.from_bytes(scaling.to_bytes(), SCHEMA)  # which says that it depends on no row


def test_scaling_depends_on_no_patient_unless_the_schema_says_so() -> None:
    few = read_table((HEAD + "a,40,1,f,0\n").encode(), SCHEMA).rows
    many = read_table((HEAD + "a,40,1,f,0\nb,99,5,m,1\n").encode(), SCHEMA).rows
    assert Scaler.fit(few, SCHEMA) == Scaler.fit(many, SCHEMA)
    assert Scaler.fit(few, SCHEMA).apply(few[0], SCHEMA)[0] == pytest.approx((40 - 60) / 30)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('type = "integer"', 'type = "date"', "number, integer or category"),
        ("range = [0, 120]", "", "needs range"),
        ("range = [0, 120]", "range = [5, 5]", "range is empty"),
        ("range = [0, 120]", 'range = ["a", 5]', "must be a number"),
        ("range = [0, 120]", "range = [0, 120]\nscale = 0", "above 0"),
        ('["f", "m", "1"]', '["f"]', "two categories"),
        ('["f", "m", "1"]', '["f", "f"]', "each once"),
        ('["f", "m", "1"]', "[1, 2]", "list of texts"),
        ('yes = ["1", "2"]', 'yes = ["0"]', "or one of another class"),
        ('no = ["0"], ', "", "two or more"),
        ("[columns.age]", "[columns.out]", "an input at once"),
        ("[columns.age]", "[colums.age]", "unknown section"),
        ('type = "integer"', 'typ = "integer"', "unknown key"),
        ('"who"', '"who"\nbad_values = "guess"', "bad_values must be"),
        ('"who"', '"who"\ndelimiter = "ab"', "one character"),
        ('"who"', "5", "must be text"),
        ("[table]", "[table", "not TOML"),
        ("[target]", "[table.x]", "unknown key|needs"),
    ],
)
def test_a_schema_that_makes_no_sense_is_refused(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(SchemaInvalid, match=message):
        Schema.from_toml(TEXT.replace(old, new, 1))


values = st.lists(
    st.tuples(st.none() | st.integers(0, 120), st.none() | st.floats(-5, 5.5)),
    min_size=1,
    max_size=30,
)


@given(st.lists(values, min_size=1, max_size=4))
def test_common_moments_are_those_of_the_pooled_rows(
    sites: list[list[tuple[int | None, float | None]]],
) -> None:
    def table(rows: list[tuple[int | None, float | None]]) -> bytes:
        lines = [
            f"p,{'' if age is None else age},{'' if dose is None else repr(dose)},f,0"
            for age, dose in rows
        ]
        return (HEAD + "\n".join(lines) + "\n").encode()

    moments = [
        row_moments(row, SCHEMA) for rows in sites for row in read_table(table(rows), SCHEMA).rows
    ]
    assert np.abs(moments).max() <= 1
    common = scaler(np.mean(moments, axis=0, dtype=np.float64), SCHEMA)
    for place, column in enumerate(SCHEMA.columns[:2]):
        known = [row[place] for rows in sites for row in rows if row[place] is not None]
        span = column.high - column.low
        many = len(known) >= FEWEST * len(moments)
        if many and np.std(np.asarray(known, dtype=float)) > 0.01 * span:
            assert common.centre[place] == pytest.approx(np.mean(known), abs=1e-4 * span)
            assert common.scale[place] == pytest.approx(np.std(known), abs=1e-3 * span)
        if not many:
            assert (common.centre[place], common.scale[place]) == (column.centre, column.scale)


def test_moments_refuse_what_does_not_fit() -> None:
    with pytest.raises(DataError, match="do not fit"):
        scaler(np.zeros(5), SCHEMA)


def test_the_lines_for_a_schema_make_that_scaling() -> None:
    common = Scaler((61.5, 0.25), (11.0, 2.5))
    lines = schema_lines(common, SCHEMA)
    text = TEXT.replace("[table]", "[table]\n" + lines.splitlines()[0])
    for section in lines.split("\n\n")[1:]:
        heading, constants = section.split("\n", 1)
        text = text.replace(heading, f"{heading}\n{constants}")
    schema = Schema.from_toml(text)
    assert schema.scaling == "schema"
    assert Scaler.fit((), schema) == common


@given(st.binary(max_size=400))
def test_any_bytes_are_a_table_or_one_line(data: bytes) -> None:
    try:
        read_table(data, SCHEMA)
    except DataError as error:
        told = str(error)
        assert told
        assert "\n" not in told


@given(st.lists(st.lists(st.text(max_size=6), min_size=5, max_size=5), max_size=6))
def test_any_cells_are_rows_or_findings(cells: list[list[str]]) -> None:
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells]
    table = read_table((HEAD + "\n".join(quoted) + "\n").encode(), SCHEMA)
    assert len(table.rows) + len(table.findings) == len(cells)


def test_rows_without_patients_stand_for_themselves(tmp_path: Path) -> None:
    source = phantom.table(tmp_path / "in", seed=1, patients=30)
    schema = source.parent / "schema.toml"
    schema.write_text(schema.read_text().replace('patient = "patient"\n', ""))
    one = add(source, tmp_path, "one", "tabular", key=KEY)
    assert "rows-unknown" in {finding.code for finding in one.findings}
    assert len({entry.patient for entry in one.manifest.entries}) == len(one.manifest.entries)
    # In another order it is still the same data, and the same budget.
    head, *rows = source.read_text().splitlines()
    source.write_text("\n".join([head, *reversed(rows)]) + "\n")
    again = add(source, tmp_path, "again", "tabular", key=KEY)
    assert again.pseudonym == one.pseudonym


def test_a_table_needs_its_schema(tmp_path: Path) -> None:
    source = phantom.table(tmp_path / "in", seed=1, patients=5)
    (source.parent / "schema.toml").unlink()
    with pytest.raises(DataError, match="needs a schema"):
        add(source, tmp_path, "x", "tabular", key=KEY)
