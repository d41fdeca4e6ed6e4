"""Data files of the command line: what comes out, and what is said about those that are wrong."""

import json

import numpy as np
import pytest

from ppl.datafile import InputError, read_data


def write(path, text):
    path.write_text(text)
    return path


def test_json_lists_become_arrays_and_numbers_stay_numbers(tmp_path):
    text = '{"N": 3, "scale": 0.5, "flag": true, "y": [1, 2, 3], "x": [[1, 2.5], [3, 4]]'
    text += ', "o": {"z": [0]}}'
    data = read_data([write(tmp_path / "d.json", text)])
    assert type(data["N"]) is int
    assert type(data["scale"]) is float
    assert data["flag"] is True
    assert data["y"].dtype.kind == "i"
    assert data["x"].dtype.kind == "f"
    assert data["x"].shape == (2, 2)
    assert data["o"]["z"].tolist() == [0]
    assert read_data([write(tmp_path / "e.json", '{"y": []}')])["y"].shape == (0,)


def test_csv_columns_become_arrays_of_their_own_type(tmp_path):
    text = "\ufeffn, y ,ok,bad\n1,0.5,true,nan\n2,1e3,False,1\n\n"
    data = read_data([write(tmp_path / "d.csv", text)])
    assert list(data) == ["n", "y", "ok", "bad"]
    assert data["n"].dtype.kind == "i"
    assert data["y"].tolist() == [0.5, 1000.0]
    assert data["ok"].tolist() == [True, False]
    assert np.isnan(data["bad"][0])


def test_npz_arrays_without_axes_become_numbers(tmp_path):
    np.savez(tmp_path / "d.npz", N=np.int64(3), y=np.arange(3.0))
    data = read_data([tmp_path / "d.npz"])
    assert type(data["N"]) is int
    assert data["y"].shape == (3,)


def test_files_are_merged_unless_a_name_stands_in_two(tmp_path):
    first = write(tmp_path / "a.csv", "y\n1\n")
    second = write(tmp_path / "b.json", '{"N": 1}')
    assert set(read_data([first, second])) == {"y", "N"}
    with pytest.raises(InputError, match="gives y again: each name in one file only"):
        read_data([first, first])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.txt", "", r"\.json, \.csv or \.npz files; got .*d\.txt"),
        ("d.json", "{", "is no JSON: Expecting property name"),
        ("d.json", "[1, 2]", "holds a list; expected an object with one entry for each"),
        ("d.json", '{"y": [[1, 2], [3]]}', "'y' in .* is a ragged list"),
        ("d.json", '{"y": [1, null]}', "'y' in .* holds null; write NaN"),
        ("d.json", '{"o": {"y": ["a"]}}', "'y' of 'o' in .* other things than numbers"),
        ("d.csv", "", "is empty; expected a header and rows"),
        ("d.csv", "y,y\n1,2\n", "columns need names, each its own; got y, y"),
        ("d.csv", "y,x\n1,2\n3\n", "row 2 has 1 cells where the header has 2"),
        ("d.csv", "y,x\n1,2\n3,\n", "column 'x' has '' in row 2, .*write nan, or leave the row"),
        ("d.csv", "county\n1\nAitkin\n", "column 'county' has 'Aitkin' in row 2.*as integers"),
        ("d.npz", "not a zip", "is no NPZ file of plain arrays"),
    ],
)
def test_wrong_files_are_refused_in_words(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        read_data([write(tmp_path / name, text)])


def test_a_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"no data file d\.json \(looked for {tmp_path}"):
        read_data(["d.json"])


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "d.csv").write_bytes(b"y\n\xff\n")
    with pytest.raises(InputError, match="is no UTF-8 text"):
        read_data([tmp_path / "d.csv"])


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "d.npz", y=np.array([None]))
    with pytest.raises(InputError, match="plain arrays"):
        read_data([tmp_path / "d.npz"])


def test_large_and_small_numbers_survive(tmp_path):
    values = {"y": [1.5e-300, -2.25], "n": [2**40]}
    data = read_data([write(tmp_path / "d.json", json.dumps(values))])
    assert data["y"].tolist() == values["y"]
    assert data["n"].tolist() == values["n"]
