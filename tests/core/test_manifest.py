"""Which rows a table or a folder has, and what is refused of it, with the line."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from prolora.batch.manifest import Call, Choices, read_manifest, rows_of_folder
from prolora.errors import ProLoRAError

CALL = Call(Path("/models/a.safetensors"), Path("/models/b.safetensors"))


def rows_in(folder: Path, text: str, call: Call = CALL):
    path = folder / "library.csv"
    path.write_bytes(text.encode())
    return read_manifest(path, call)


FORMS = {
    "commas": "lora,target,rank,mode\nx.safetensors,c.safetensors,8,prolora\n",
    "semicolons": "lora;target;rank;mode\r\nx.safetensors;c.safetensors;8;prolora\r\n",
    "mark, quotes, blanks": '\ufefflora , target,rank,mode\n\n"x.safetensors", c.safetensors,8,'
    "prolora\n\n",
    "JSON lines": '{"lora": "x.safetensors", "target": "c.safetensors", "rank": 8, "mode": '
    '"prolora", "threshold": null}\n\n',
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_one_row_in_each_form(tmp_path, text):
    (row,) = rows_in(tmp_path, text)
    assert row.lora == tmp_path / "x.safetensors"
    assert row.source == CALL.source  # which the call has
    assert row.target == tmp_path / "c.safetensors"
    assert row.out == tmp_path / "x for c.safetensors"
    assert row.choices == Choices(mode="prolora", rank=8)


def test_every_choice_has_a_column(tmp_path):
    said = {"mode": "casa", "threshold": 0.25, "energy": 0.9, "rank": 3, "unserved": 0.5,
            "pairs": "p/pairs.json", "naming": "peft", "dtype": "bf16"}  # fmt: skip
    assert said.keys() == {field.name for field in fields(Choices)}
    want = Choices(**{**said, "pairs": tmp_path / "p" / "pairs.json"})
    line = json.dumps({"lora": "x.safetensors", **said})
    assert [row.choices for row in rows_in(tmp_path, line)] == [want]
    names, cells = ",".join(said), ",".join(map(str, said.values()))
    (row,) = rows_in(tmp_path, f"lora,{names}\nx.safetensors,{cells}\n")
    assert row.choices == want


def test_a_row_goes_before_the_call(tmp_path):
    call = Call(CALL.source, CALL.target, tmp_path / "moved", Choices(threshold=0.6, rank=4))
    text = "lora,threshold,source,out\nx.safetensors,0.1,/s.safetensors,\ny.safetensors,,,sub/z\n"
    one, two = rows_in(tmp_path, text, call)
    assert one.choices == Choices(threshold=0.1, rank=4)
    assert two.choices == Choices(threshold=0.6, rank=4)
    assert (one.source, two.source) == (Path("/s.safetensors"), CALL.source)
    assert one.out == tmp_path / "moved" / "x for b.safetensors"
    assert two.out == tmp_path / "sub" / "z.safetensors"


DEEP, LONG = "[" * 100_000, "x" * 300
REFUSED = {
    "lora,colour\nx,red\n": "library.csv, line 1: no column is called 'colour'. They are: lora,",
    "lora,lora\nx,y\n": "line 1: a column is there twice",
    "lora,rank\nx\n": "line 2: it has not as many cells as line 1",
    "lora,rank\nx,1,2\n": "line 2: it has not as many cells as line 1",
    "lora,rank\nx,1\ny,many\n": "line 3: rank is 'many', which is no whole number",
    "lora,rank\nx,1.5\n": "rank is '1.5', which is no whole number",
    "lora,rank\nx,-1\n": "line 2: The rank is -1; choose 0",
    "lora,threshold\nx,nan\n": "The threshold is nan",
    "lora,energy\nx,1\n": "The subspace energy is 1",
    "lora,mode\nx,all\n": "no mode 'all'",
    "lora,mode\nx,calibrated\n": "needs a recording",
    "lora,naming\nx,mine\n": "There is no naming 'mine'. Choose one of: auto",
    "lora,dtype\nx,fp8\n": "There is no dtype 'fp8'. Choose one of: fp16",
    "rank\n1\n": "line 2: it names no lora",
    "lora\n": "has no rows",
    "": "has no rows",
    'lora\n"x\n': "unexpected end of data. Is a quote left open?",
    '"lora\nx\n': "unexpected end of data. Is a quote left open?",
    "lora\nx\nx\n": "library.csv, line 3: {0}/x for b.safetensors is written for library.csv, li",
    "lora,out\nx,y\nz,y\n": "y.safetensors is written for library.csv, line 2 as well",
    "lora,out\nx,/models/a\n": "line 2: /models/a.safetensors would be written, and is read",
    "lora,out\nx.safetensors,x\n": "x.safetensors would be written, and is read",
    "lora,out\nx,y\ny.safetensors,\n": "y.safetensors would be written, and is read",
    '{"lora": "x"}\n{"lora": \n': "line 2: this is no JSON",
    '{"lora": "x"}\n[]\n': "line 2: this is no row",
    '{"lora": "x", "rank": true}': "rank is True, which is no text and no number",
    '{"lora": ["x"]}': "lora is ['x'], which is no text",
    f'{{"lora": {DEEP}': "line 1: this is no JSON (it is nested too deep)",
    f"lora\n{LONG}\n": "line 2: No file can be called ",
    f"lora,source\nx,{LONG}\n": "File name too long",
    f"lora\n{LONG[:245]}\n": "line 2: No file can be called ",  # with the target's name behind it
    '{"lora": "x\\u0000y"}': "line 1: No file can be called ",
    '{"lora": "x", "pairs": "\\ud800"}': "line 1: No file can be called ",
    '{"lora": "x", "strength": 1}': "no column is called 'strength'",
}


@pytest.mark.parametrize(
    ("text", "sentence"), REFUSED.items(), ids=[repr(text)[:60] for text in REFUSED]
)
def test_what_is_refused(tmp_path, text, sentence):
    with pytest.raises(ProLoRAError) as error:
        rows_in(tmp_path, text)
    assert sentence.format(tmp_path) in str(error.value)


def test_a_row_without_a_checkpoint(tmp_path):
    with pytest.raises(ProLoRAError, match="line 2: it names no source and target"):
        rows_in(tmp_path, "lora\nx\n", Call())


def test_a_manifest_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.csv").write_bytes("lora\nä.safetensors\n".encode("latin-1"))
    for name, words in (
        ("latin.csv", "is no text in UTF-8. Save it"),
        ("absent.csv", "does not exist. Is the name right"),
        (".", "is a folder. Choose a file in it"),
    ):
        with pytest.raises(ProLoRAError, match=words):
            read_manifest(tmp_path / name, CALL)


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names_of(rows, folder: Path) -> dict[str, str]:
    return {str(r.lora.relative_to(folder)): str(r.out.relative_to(folder)) for r in rows}


def test_a_folder(tmp_path):
    files(tmp_path, "x.safetensors", "y.safetensors", "sub/x.safetensors", "note.txt")
    assert names_of(rows_of_folder(tmp_path, "*.safetensors", CALL), tmp_path) == {
        "x.safetensors": "x for b.safetensors",
        "y.safetensors": "y for b.safetensors",
    }
    call = Call(CALL.source, CALL.target, tmp_path / "out")
    assert names_of(rows_of_folder(tmp_path, "**/*.safetensors", call), tmp_path) == {
        "sub/x.safetensors": "out/sub/x for b.safetensors",
        "x.safetensors": "out/x for b.safetensors",
        "y.safetensors": "out/y for b.safetensors",
    }


@pytest.mark.parametrize("out", [None, "out"])
def test_what_was_written_into_the_folder_is_not_moved_again(tmp_path, out):
    files(tmp_path, "x.safetensors", "sub/y.safetensors")
    call = Call(CALL.source, CALL.target, out and tmp_path / out)
    first = rows_of_folder(tmp_path, "**/*.safetensors", call)
    files(tmp_path, *names_of(first, tmp_path).values())
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    assert rows_of_folder(tmp_path, "**/*.safetensors", call) == first


def test_a_library_whose_files_have_one_name(tmp_path):
    """As PEFT and diffusers call all of theirs."""
    files(tmp_path, "ink/adapter_model.safetensors", "oil/adapter_model.safetensors")
    call = Call(CALL.source, CALL.target, tmp_path / "out")
    rows = rows_of_folder(tmp_path, "*/*.safetensors", call)
    assert sorted(names_of(rows, tmp_path).values()) == [
        "out/ink/ink adapter_model for b.safetensors",
        "out/oil/oil adapter_model for b.safetensors",
    ]


@pytest.mark.parametrize(
    ("folder", "pattern", "sentence"),
    [
        ("absent", "*", "absent is no folder"),
        (".", "*.nothing", "There is no file in .* that .*nothing fits"),
        (".", "", "is no pattern of files"),
        (".", "/x/*", "is no pattern of files"),
    ],
)
def test_a_folder_that_is_refused(tmp_path, folder, pattern, sentence):
    with pytest.raises(ProLoRAError, match=sentence):
        rows_of_folder(tmp_path / folder, pattern, CALL)
