"""Which ComfyUI is run, decided from folders that only look like one."""

from pathlib import Path

import pytest

from comfy_harness.hosts import HostNotFound, checkout_host, find_host
from comfy_harness.server import PAGE_SETTINGS, ComfyServer, ServerFailed, prepare_folder


def make_checkout(folder: Path, cli_args: str = "") -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfy" / "cli_args.py").write_text(cli_args)
    (folder / "main.py").write_text("import sys; print('no luck'); sys.exit(3)")
    return folder


def test_comfyui_path_wins(tmp_path):
    checkout = make_checkout(tmp_path / "Comfy")
    environ = {"COMFYUI_PATH": str(checkout), "COMFYUI_PYTHON": "/some/python"}
    assert find_host(environ=environ).program == ("/some/python", str(checkout / "main.py"))


def test_the_checkout_s_own_venv_is_used(tmp_path):
    checkout = make_checkout(tmp_path / "Comfy")
    python = checkout / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert checkout_host(checkout).program[0] == str(python)


def test_a_pack_in_custom_nodes_uses_that_comfyui(tmp_path):
    checkout = make_checkout(tmp_path / "Comfy")
    pack = checkout / "custom_nodes" / "ComfyUI-ProLoRA"
    pack.mkdir(parents=True)
    assert find_host(pack, environ={}).program[1] == str(checkout / "main.py")


def test_only_flags_that_the_host_has(tmp_path):
    text = 'parser.add_argument("--disable-api-nodes")\nparser.add_argument("--database-url")'
    host = checkout_host(make_checkout(tmp_path / "Comfy", text))
    assert host.flags == ("--disable-api-nodes", "--database-url", "sqlite:///:memory:")
    command = host.command(tmp_path, 8199)
    assert command[2:7] == ["--cpu", "--listen", "127.0.0.1", "--port", "8199"]
    assert command[7:9] == ["--base-directory", str(tmp_path)]


def test_a_wrong_comfyui_path_is_refused(tmp_path):
    with pytest.raises(HostNotFound, match=r"no main\.py"):
        find_host(environ={"COMFYUI_PATH": str(tmp_path)})


def test_a_host_that_dies_is_reported_with_its_log(tmp_path):
    host = checkout_host(make_checkout(tmp_path / "Comfy"))
    server = ComfyServer(tmp_path / "work", with_pack=False, host=host)
    with pytest.raises(ServerFailed, match=r"(?s)exit code 3.*no luck"):
        server.start()
    assert not server.is_running()


def test_links_of_an_earlier_run_go_and_other_files_stay(tmp_path):
    (tmp_path / "node.py").touch()
    prepare_folder(tmp_path / "work", {"old": tmp_path / "node.py"})
    kept = tmp_path / "work" / "custom_nodes" / "mine.py"
    kept.touch()
    settings = tmp_path / "work" / "user" / "default" / "comfy.settings.json"
    assert all(name in settings.read_text() for name in PAGE_SETTINGS)
    settings.write_text("{}")
    prepare_folder(tmp_path / "work", {"new.py": tmp_path / "node.py"})
    assert sorted(path.name for path in kept.parent.iterdir()) == ["mine.py", "new.py"]
    assert settings.read_text() == "{}"
    with pytest.raises(FileNotFoundError, match="custom node absent"):
        prepare_folder(tmp_path / "work", {"absent": tmp_path / "absent"})
