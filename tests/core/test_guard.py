"""What nothing may do while the tests run is refused: see guard.py."""

import pickle
import socket
from datetime import date

import pytest
import torch

from .. import guard

ANYWHERE = ("192.0.2.1", 80)  # an address that is kept free for examples


def as_the_pack(code: str, folder: str = "prolora", **names: object) -> None:
    """Runs code as if it stood in a file of the pack."""
    exec(compile(code, str(guard.ROOT / folder / "example.py"), "exec"), names)


@pytest.fixture(autouse=True)
def refused():
    """What is refused here was asked for."""
    yield guard.caught
    guard.caught.clear()


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection(ANYWHERE),
        lambda: socket.create_connection(("127.0.0.1", 8188)),
        lambda: socket.create_connection(("localhost", 8188)),
        lambda: socket.getaddrinfo("example.org", 443),
        lambda: socket.gethostbyname("example.org"),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ANYWHERE),
        lambda: socket.socket().connect_ex(ANYWHERE),
        lambda: socket.socket().bind(ANYWHERE),
    ],
)
def test_no_test_of_the_core_reaches_for_a_network(reach, refused):
    with pytest.raises(guard.Refused):
        reach()
    assert len(refused) == 1


def test_other_tests_reach_this_machine_alone():
    with socket.socket() as server, guard.connections_within_this_machine(allowed=True):
        server.bind(("127.0.0.1", 0))
        server.listen()
        socket.create_connection(server.getsockname()).close()
        with pytest.raises(guard.Refused):
            socket.create_connection(ANYWHERE)
        with pytest.raises(guard.Refused):
            as_the_pack("connect(address)", connect=socket.create_connection, address=ANYWHERE)


FORBIDDEN = {
    "a socket": "import socket; socket.socket()",
    "a pickle": "loads(data)",
    "a pickle in a file of torch": "load(file, weights_only=False)",
    "a program": "import subprocess; subprocess.run(['true'])",
    "a shell": "import os; os.system('true')",
    "a process of its own": "import os; os.fork() or os._exit(0)",
}


@pytest.mark.parametrize("folder", ["prolora", "nodes/host"])
@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_the_pack_never_opens_or_starts(what, folder, tmp_path, refused):
    torch.save({"day": date(2026, 11, 28)}, tmp_path / "file.pt")
    names = {"loads": pickle.loads, "data": pickle.dumps(date.today())}
    names |= {"load": torch.load, "file": tmp_path / "file.pt"}
    with pytest.raises(guard.Refused):
        as_the_pack(FORBIDDEN[what], folder, **names)
    assert refused
    if "pickle" in what:  # it is the pack that is kept from it
        exec(FORBIDDEN[what], names)


def test_torch_reads_weights_without_unpickling(tmp_path, refused):
    torch.save({"weight": torch.ones(3)}, tmp_path / "file.pt")
    as_the_pack(
        "load(file, weights_only=True)['weight'].sum()", load=torch.load, file=tmp_path / "file.pt"
    )
    assert not refused


def test_what_a_library_does_when_it_is_imported_is_its_own(tmp_path, monkeypatch, refused):
    (tmp_path / "library_of_a_stranger.py").write_text("import socket; socket.socket().close()")
    monkeypatch.syspath_prepend(tmp_path)
    as_the_pack("import library_of_a_stranger")
    assert not refused
