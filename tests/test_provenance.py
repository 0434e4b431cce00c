"""Commands as they are typed, and the commit of the code."""

import subprocess
import sys
import types
from importlib.machinery import ModuleSpec

import pytest

from cropjax.provenance import command, commit


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        ("cropjax.convert", "python -m cropjax.convert --out 'a b'"),
        ("cropjax.benchmark.__main__", "python -m cropjax.benchmark --out 'a b'"),
        (None, "python docs/show.py --out 'a b'"),
    ],
)
def test_a_command(monkeypatch, module, wanted):
    main = types.ModuleType("__main__")
    main.__spec__ = module and ModuleSpec(module, None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr("sys.argv", ["docs/show.py" if module is None else f"/home/me/{module}", "--out", "a b"])
    assert command() == wanted


def test_the_commit(monkeypatch, tmp_path):
    code = tmp_path / "cropjax" / "provenance.py"
    code.parent.mkdir()
    code.write_text("")
    monkeypatch.setattr("cropjax.provenance.__file__", str(code))
    assert commit() is None

    def git(*args):
        who = "-c", "user.name=me", "-c", "user.email=me@example.org"
        return subprocess.run(["git", "-C", tmp_path, *who, *args], check=True, capture_output=True, text=True).stdout

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    assert commit() == git("rev-parse", "HEAD").strip()
    code.write_text("edited\n")
    assert commit() == git("rev-parse", "HEAD").strip() + "-dirty"
