"""Nothing that data say is run, nothing secret is shown, and nothing listens that was not asked to."""

import ast
import importlib.util
import io
import json
import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from musc_ray.backbones.state_dict import load_state_dict
from musc_ray.errors import MuscRayError
from musc_ray.settings.credentials import HIDDEN, RedactingFormatter, carries_secret, redacted
from musc_ray.storage.arrays import read_array
from musc_ray.storage.paths import OutPaths
from tests.fuzz.conftest import examples
from tests.fuzz.mutation import mutated
from tests.unit.report.test_pages import Page, content_of, site_of_names

ROOT = Path(__file__).parents[2]
CODE = sorted(path for folder in ("musc_ray", "jobs", "cluster", ".ci") for path in (ROOT / folder).rglob("*.py"))


def name_of(node: ast.expr) -> str:
    """`a.b.c` of a call's function."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield name_of(node.func), {each.arg: ast.unparse(each.value) for each in node.keywords}, node.lineno


FORBIDDEN = re.compile(
    r"eval|exec|compile|__import__|os\.(system|popen|exec\w*|spawn\w*)|pickle\.(load|loads|Unpickler)|cloudpickle\..*"
    r"|dill\..*|joblib\.load|marshal\.loads?|shelve\.open|yaml\.(load|unsafe_load|full_load|load_all|unsafe_load_all)"
    r"|(np|numpy)\.(fromregex|memmap)|pd\.read_pickle|tempfile\.mktemp"
)


def test_there_is_code_to_look_at():
    assert len(CODE) > 100
    assert FORBIDDEN.fullmatch("pickle.loads")
    assert [name for name, _, _ in calls(ROOT / "musc_ray/backbones/state_dict.py") if name == "torch.load"]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_comes_from_data(path):
    for name, keywords, line in calls(path):
        assert not FORBIDDEN.fullmatch(name), f"{path}:{line} calls {name}"
        if name.endswith("np.load"):
            assert keywords.get("allow_pickle") == "False", f"{path}:{line}"
        if name in ("np.save", "np.savez"):
            assert keywords.get("allow_pickle") == "False", f"{path}:{line}"
        if name == "torch.load":
            assert keywords.get("weights_only") == "True", f"{path}:{line}"
        if name.startswith("subprocess."):
            assert keywords.get("shell", "False") == "False", f"{path}:{line}"
        assert keywords.get("trust_remote_code", "False") == "False", f"{path}:{line}"
        assert keywords.get("verify", "True") == "True", f"{path}:{line}"


class Hostile:
    """Unpickling it would run a command."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def weights_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / name for name in ("plain.pth", "zipped.pt", "nested.bin", "named.safetensors")}
    files["plain.pth"].write_bytes(pickle.dumps(Hostile()))
    torch.save(Hostile(), files["zipped.pt"])
    torch.save({"state_dict": {"a": torch.zeros(2)}, "epoch": Hostile()}, files["nested.bin"])
    files["named.safetensors"].write_bytes(pickle.dumps(Hostile()))
    return files


def test_weights_that_hold_code_are_refused_in_a_sentence(tmp_path, monkeypatch, figures):
    monkeypatch.chdir(tmp_path)
    for path in weights_files(tmp_path).values():
        figures["inputs fuzzed"] += 1
        with pytest.raises(MuscRayError) as error:
            load_state_dict(path)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "pwned").exists()


def weights_bytes() -> tuple[bytes, ...]:
    from safetensors.torch import save

    file = io.BytesIO()
    torch.save({"a": torch.zeros(3), "b.c": torch.ones(2, 2)}, file)
    return file.getvalue(), save({"a": torch.zeros(3), "b.c": torch.ones(2, 2)})


@examples(100)
@given(data=mutated(weights_bytes()), suffix=st.sampled_from([".pth", ".safetensors"]))
def test_damaged_weights_are_tensors_or_a_sentence(data, suffix, tmp_path_factory, no_hang, figures):
    figures["inputs fuzzed"] += 1
    path = tmp_path_factory.getbasetemp() / f"weights{suffix}"
    path.write_bytes(data)
    with no_hang():
        try:
            assert all(isinstance(value, torch.Tensor) for value in load_state_dict(path).values())
        except MuscRayError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_a_band_that_holds_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "band.npy", np.array([Hostile()], object), allow_pickle=True)
    with pytest.raises(MuscRayError, match="is not a readable array"):
        read_array(OutPaths.at(str(tmp_path)).fs, str(tmp_path / "band.npy"))
    assert not (tmp_path / "pwned").exists()


KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCY"
WITH_SECRETS = [
    f"s3://AKIAIOSFODNN7EXAMPLE:{KEY}@bucket/a.png",
    f"https://{KEY.replace('/', 'x')}@host/a.png",
    f"https://host/a.png?X-Amz-Algorithm=AWS4&X-Amz-Signature={KEY}&X-Amz-Date=1",
    f"https://account.blob.core.windows.net/c/a.png?sv=2024&sig={KEY}",
    f"https://storage.googleapis.com/b/a?GoogleAccessId=x&Signature={KEY}",
    f"postgresql+psycopg2://plant:p@ss{KEY}@host/db",
    f"Authorization: Bearer {KEY}",
    f"{{'Authorization': 'AWS4-HMAC-SHA256 Credential=AKIA/x, Signature={KEY}'}}",
    f"AWS_SECRET_ACCESS_KEY={KEY.replace('/', '')}",
    f"export AWS_SESSION_TOKEN='{KEY}'",
    f"the key {KEY} was refused",
]


@pytest.mark.parametrize("text", WITH_SECRETS)
def test_secrets_do_not_survive(text):
    shown = redacted(f"Cannot read {text}: no.", {"AWS_SECRET_ACCESS_KEY": KEY})
    for part in re.findall(r"\w{8,}", KEY):
        assert part not in shown
    assert HIDDEN in shown
    assert shown.startswith("Cannot read ")


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/line=4/token=abc/cell 1.png", "http://host:8080/a@b.png", "http://127.0.0.1:8333", "s3://b/a:b@c.png",
        "C:/photos/key.png", "Setting 'lake' carries credentials", "the environment variable AWS_PROFILE is not set",
        "RAY_AUTH_TOKEN_PATH=/run/token", "keys: 3, tokens: 4", "file:///a?b=c.png",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert redacted(text, {"RAY_AUTH_TOKEN_PATH": "/run/token", "SHORT_TOKEN": "a"}) == text
    assert not carries_secret(text)


@examples(200)
@given(text=st.text(max_size=60), secret=st.text("abcdefghijklmnop0123456789/+", min_size=12, max_size=40))
@example(text="", secret="a" * 12)
def test_the_value_of_a_secret_variable_is_found_wherever_it_stands(text, secret):
    assert secret not in redacted(f"{text}{secret}{text}", {"MY_API_TOKEN": secret})


def test_logs_and_their_tracebacks_are_redacted(monkeypatch):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter())
    logger = logging.getLogger("musc_ray.test")
    logger.addHandler(handler)
    try:
        try:
            raise ValueError(f"GET https://h/x?X-Amz-Signature={KEY}")
        except ValueError:
            logger.exception("Failed with %s", f"s3://k:{KEY}@b")
    finally:
        logger.removeHandler(handler)
    assert "Traceback" in stream.getvalue()
    assert KEY not in stream.getvalue()


def test_the_command_line_redacts_what_drivers_say(monkeypatch):
    """An error that nobody foresaw: one line, redacted, and exit code 1."""
    from typer.testing import CliRunner

    from musc_ray.cli.app import app

    def fails(out):
        raise RuntimeError(f"GET https://h/x?X-Amz-Signature={KEY}\nand more")

    monkeypatch.setattr("musc_ray.cli.status.read_status", fails)
    result = CliRunner().invoke(app, ["status", "out"])
    assert result.exit_code == 1
    assert KEY not in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: RuntimeError: GET https://h/x?X-Amz-Signature=***")


HOSTILE_TEXT = st.text(
    st.sampled_from("<>&'\"`=/\\{}%$#;:()[]!-\n\r\t\x00\u2028\u2029\u202e\ud800aA1 ") | st.characters(), max_size=40
)


@examples(40)
@given(name=HOSTILE_TEXT)
@example(name="]]><!--<script>alert(1)</script>-->")
@example(name="</script><img src=x onerror=alert(1)>")
@example(name="\u2028\u2029*/alert(1)/*")
def test_any_name_is_text_in_the_report(name, figures):
    figures["inputs fuzzed"] += 1
    files, plain = site_of_names(name), site_of_names("plain")
    for path in ("index.html", "group-1.html", "image.html"):
        page, same = Page(files[path]), Page(plain[path])
        assert [(tag, attrs.keys()) for tag, attrs in page.elements] == [(t, a.keys()) for t, a in same.elements]
        assert page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    for path, text in files.items():
        if path.endswith(".js"):
            assert "<" not in text
            assert text.isascii()
            content_of(text)


def loopback_only(hosts) -> bool:
    return all(host in ("127.0.0.1", "localhost", "::1") for host in hosts)


def test_dashboards_and_job_servers_are_on_the_loopback_unless_they_must_be_reached():
    """Only in Kubernetes, where submitter and head are different pods, and a token is asked for."""
    found = {}
    for path in sorted((ROOT / "cluster").rglob("*")):
        if path.is_file() and path.suffix not in (".pyc", ".md"):
            text = path.read_text()
            found[str(path.relative_to(ROOT))] = re.findall(r"dashboard-host[=: ]+\"?([\w.{}]+)", text)
    hosts = {path: values for path, values in found.items() if values}
    assert hosts.pop("cluster/local/cluster.py") == ["{HOST}"]
    assert re.search(r'^HOST = "127\.0\.0\.1"$', (ROOT / "cluster/local/cluster.py").read_text(), re.MULTILINE)
    for path, values in hosts.items():
        if path.startswith("cluster/kuberay/"):
            documents = list(yaml.safe_load_all((ROOT / path).read_text()))
            assert "'mode': 'token'" in str(documents)
        else:
            assert loopback_only(values), path
    for path in CODE:
        for name, keywords, line in calls(path):
            if name == "ray.init":
                assert keywords.get("dashboard_host", "'127.0.0.1'") == "'127.0.0.1'", f"{path}:{line}"


def test_nothing_turns_token_authentication_off():
    for folder in ("musc_ray", "jobs", "cluster", ".ci"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert not re.search(r"RAY_AUTH_MODE[=\"': ]+disabled", path.read_text(errors="replace")), path


def test_containers_are_not_root():
    """The image, and every pod's (see also tests/unit/cluster/test_cluster_files.py)."""
    users = re.findall(r"^USER (.+)$", (ROOT / "cluster/Dockerfile").read_text(), flags=re.MULTILINE)
    assert users[-1].split(":")[0] not in ("root", "0")
    for path in sorted((ROOT / "cluster/kuberay/base").glob("*.yaml")):
        text = path.read_text()
        assert not re.search(r"privileged:\s*true|hostNetwork:\s*true|hostPath:|runAsUser:\s*0\b", text), path


OWN_RAY = """
import json, os, psutil, ray
from musc_ray.settings.loading import load_settings
from musc_ray.runtime.cluster import ray_cluster
from musc_ray.runtime.options import ExecutorOptions
with ray_cluster(ExecutorOptions.of(load_settings(None, {"workers": 1}))):
    node = ray._private.worker.global_worker.node
    print(json.dumps({"mode": os.environ.get("RAY_AUTH_MODE"), "address": node.gcs_address, "web": node.webui_url}))
    import sys
    sys.stdout.flush()
    sys.stdin.readline()
"""

INTRUDER = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR'); print(ray.nodes())"


@pytest.mark.slow
def test_the_ray_of_a_command_has_no_dashboard_and_lets_nobody_in_without_its_token(tmp_path):

    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", OWN_RAY]
    with subprocess.Popen(command, env=plain, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        try:
            said = json.loads(owner.stdout.readline())
            wrong = {**plain, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
            ask = [sys.executable, "-c", INTRUDER, said["address"]]
            refused = subprocess.run(ask, env=wrong, capture_output=True, text=True, timeout=120)
        finally:
            owner.stdin.close()
    assert said["mode"] == "token"
    assert not said["web"]
    assert refused.returncode != 0
    assert "NodeID" not in refused.stdout


def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_audit_that_could_look_nothing_up_says_so():
    """pip-audit itself says that it found no vulnerabilities."""
    verdict = audit().verdict
    skipped = {"name": "a", "skip_reason": "not found on PyPI"}
    clean = {"name": "b", "version": "1", "vulns": []}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    assert verdict([skipped], "")[0].startswith("Not audited: no advisories could be had here (not found on PyPI)")
    assert verdict([], "ConnectionError: no route")[0].startswith("Not audited: no advisories could be had here (Conn")
    assert verdict([clean, skipped], "") == ("0 of 1 packages have known vulnerabilities; 1 could not be looked up.", 0)
    text, code = verdict([clean, bad], "")
    assert code == 1
    assert text.splitlines()[0] == "c 2: CVE-1, fixed in 3"
