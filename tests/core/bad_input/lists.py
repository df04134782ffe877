"""Lists of LoRAs: the lines of a node, the table of a library, a folder."""

from collections.abc import Callable
from pathlib import Path

from prolora.adapters.lora_list import LoraNames, parse_lora_list
from prolora.batch.manifest import Call, read_manifest, rows_of_folder

from .case import Case, Table, written

NAMES = LoraNames(("ink.safetensors", "people/anna.safetensors", "old/anna.safetensors"))
CALL = Call(Path("a.safetensors"), Path("b.safetensors"))


def line(text: str) -> Callable[[], object]:
    return lambda: parse_lora_list(text, NAMES)


def table(text: str, call: Call = CALL) -> Callable[[], object]:
    return lambda: read_manifest(written("library.csv", text), call)


def folder(name: str, pattern: str) -> Callable[[], object]:
    return lambda: rows_of_folder(Path(name), pattern, CALL)


LINES = Table(
    "The lines of a stack",
    "Load LoRA Stack for Model (`loras`)",
    (
        Case("a LoRA that there is not", line("inc 1"), "no LoRA 'inc'"),
        Case("a name that two folders have", line("anna 1"), "may be each of these"),
        Case("a strength that is a word", line("<lora:ink:strong>"), "is no number"),
        Case("text beside a tag", line("<lora:ink:0.8> a lighthouse"), "holds 'a lighthouse'"),
        Case("a line without a name", line(","), "names no LoRA"),
        Case("three strengths", line("ink 1 1 1"), "no LoRA"),
        Case("a strength that is endless", line("ink inf"), "no LoRA"),
    ),
)

MANIFESTS = Table(
    "The table of a library",
    "`prolora batch`",
    (
        Case(
            "a table that does not exist",
            lambda: read_manifest(Path("library.csv"), CALL),
            "does not exist",
        ),
        Case(
            "a table that is no text",
            lambda: read_manifest(written("library.csv", b"lora\n\xe4\n"), CALL),
            "UTF-8",
        ),
        Case("a table without rows", table("lora\n"), "has no rows"),
        Case("a column that there is not", table("lora,colour\nx,red\n"), "no column is called"),
        Case("a column twice", table("lora,lora\nx,y\n"), "there twice"),
        Case("a row that is too short", table("lora,rank\nx\n"), "not as many cells"),
        Case("a row without a LoRA", table("rank\n1\n"), "names no lora"),
        Case("a row without checkpoints", table("lora\nx\n", Call()), "no source and target"),
        Case("a rank that is a word", table("lora,rank\nx,many\n"), "no whole number"),
        Case("a threshold that is no number", table("lora,threshold\nx,nan\n"), "threshold is nan"),
        Case("a mode that there is not", table("lora,mode\nx,all\n"), "no mode 'all'"),
        Case(
            "a mode that needs models that run",
            table("lora,mode\nx,calibrated\n"),
            "needs a recording",
        ),
        Case("a naming that there is not", table("lora,naming\nx,mine\n"), "no naming 'mine'"),
        Case("a precision that there is not", table("lora,dtype\nx,fp8\n"), "no dtype 'fp8'"),
        Case("a quote that is left open", table('lora\n"x\n'), "quote left open"),
        Case("two rows for one file", table("lora,out\nx,y\nz,y\n"), "as well"),
        Case(
            "a row that would overwrite what is read",
            table("lora,out\nx.safetensors,x\n"),
            "and is read",
        ),
        Case("a line that is no JSON", table('{"lora": "x"}\n{"lora": \n'), "no JSON"),
        Case("a line that is no row", table('{"lora": "x"}\n[]\n'), "no row"),
        Case(
            "a truth in the place of a number",
            table('{"lora": "x", "rank": true}'),
            "no text and no number",
        ),
        Case("a folder that does not exist", folder("absent", "*"), "is no folder"),
        Case("a folder with no such file", folder(".", "*.nothing"), "There is no file"),
        Case("a pattern that is none", folder(".", ""), "no pattern of files"),
    ),
)

TABLES = (LINES, MANIFESTS)
