"""What Kubernetes says of a pod, by a stand-in that answers over TLS what its API is documented to answer."""

import datetime
import http.server
import ipaddress
import json
import os
import ssl
import subprocess
import sys
import threading
import uuid
from dataclasses import asdict, replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from stores import make_bucket
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.errors import BadInput
from ddcal.store.bucket import Bucket
from ddcal.store.lock_holder import Holder
from ddcal.study.record import lock, scheduler
from ddcal.study.record.ledger import LEDGER
from ddcal.study.record.lock import LOCK, DriverLock, stop_driver
from ddcal.study.record.scheduler import Pod, parse_scheduled, scheduled_here
from ddcal.study.record.status import driver_job, study_state
from ddcal.study.remote import bucket_lock
from ddcal.study.remote.bucket_lock import COPY, BucketLock

UID = "0f1b8c1e-7a61-4a6e-9c58-2a5be2d0a111"
NOT_FOUND = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
FORBIDDEN = {"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403}


def described(phase, uid=UID, **metadata):
    return {"kind": "Pod", "metadata": {"name": "ddcal-head-x7k2p", "uid": uid, **metadata}, "status": {"phase": phase}}


TERMINATING = described("Running", deletionTimestamp="2026-11-29T12:00:00Z")


def self_signed(folder):
    """A certificate of 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.fixture
def kubernetes(tmp_path, monkeypatch):
    """kubernetes(answer, …): what is answered, the last one again and again; it asks for the account's token."""
    account = tmp_path / "account"
    account.mkdir()
    self_signed(account)
    (account / "token").write_text("secret\n")
    answers = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if self.headers["Authorization"] != "Bearer secret":
                answer = FORBIDDEN
            elif self.path != "/api/v1/namespaces/lab/pods/ddcal-head-x7k2p":
                answer = {"kind": "Status", "reason": "BadRequest", "code": 400}
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(answer.get("code", 200) if isinstance(answer, dict) else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "ca.crt", account / "key")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(scheduler, "ACCOUNT", account)
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_port)}
    environment |= {"POD_NAMESPACE": "lab", "POD_NAME": "ddcal-head-x7k2p", "POD_UID": UID}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in [one for one in os.environ if one.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    yield lambda *said: answers.__setitem__(slice(None), said)
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_pod_of_this_process(kubernetes, monkeypatch):
    pod = scheduled_here()
    assert (pod.namespace, pod.name, pod.uid) == ("lab", "ddcal-head-x7k2p", UID)
    assert parse_scheduled(str(pod)) == pod
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert str(scheduled_here()) == "slurm::12:0"
    monkeypatch.delenv("SLURM_JOB_ID")
    for wrong in ("../../secrets", "A", "", "a" * 254, "a/b"):
        monkeypatch.setenv("POD_NAME", wrong)
        assert scheduled_here() is None, wrong


def test_outside_a_pod_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(scheduler, "ACCOUNT", tmp_path)
    for name in ("NAMESPACE", "NAME", "UID"):
        monkeypatch.setenv(f"POD_{name}", "a")
    assert Pod.here() is None


@pytest.mark.parametrize(
    ("said", "state", "ended"),
    [
        (described("Running"), "Running", False),
        (described("Pending"), "Pending", False),
        (TERMINATING, "Terminating", False),
        (described("Failed"), "Failed", True),
        (described("Succeeded", deletionTimestamp="2026-11-29T12:00:00Z"), "Succeeded", True),
        (described("Running", uid="another"), "GONE", True),
        (NOT_FOUND, "GONE", True),
        (FORBIDDEN, "UNKNOWN", False),
        ({"kind": "PodList", "items": []}, "UNKNOWN", False),
        ([], "UNKNOWN", False),
        (b"<html>404 page not found</html>", "UNKNOWN", False),
    ],
)
def test_what_is_said_of_a_pod(kubernetes, said, state, ended):
    kubernetes(said)
    pod = Pod.here()
    assert (pod.state(), pod.ended, pod.status) == (state, ended, f"pod ddcal-head-x7k2p {state}")
    assert replace(pod, cluster="0" * 16).state() == "UNKNOWN", "names are those of one cluster"


def test_only_a_cluster_that_shows_its_certificate_is_believed(kubernetes, monkeypatch, tmp_path):
    kubernetes(NOT_FOUND)
    other = tmp_path / "other"
    other.mkdir()
    self_signed(other)
    (other / "token").write_text("secret")
    monkeypatch.setattr(scheduler, "ACCOUNT", other)
    assert Pod.here().state() == "UNKNOWN"
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT_HTTPS", "1")
    assert Pod.here().state() == "UNKNOWN"


def locked(directory, job):
    elsewhere = replace(Holder.here(), host="ddcal-head-x7k2p")
    (directory / LOCK).write_text(json.dumps(asdict(elsewhere) | {"job": str(job)}))


def test_a_driver_in_a_pod_that_is_gone_is_taken_over_from(tmp_path, kubernetes):
    kubernetes(NOT_FOUND)
    locked(tmp_path, Pod.here())
    with pytest.raises(BadInput, match="if its pod ddcal-head-x7k2p has ended, --take-over finds that out"):
        DriverLock(tmp_path)
    assert (study_state(tmp_path, False), driver_job(tmp_path)) == ("dead", "pod ddcal-head-x7k2p GONE")
    taken = DriverLock(tmp_path, take_over=True)
    assert taken.taken_over and json.loads((tmp_path / LOCK).read_text())["job"] == str(Pod.here())
    taken.release()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (described("Running"), "--take-over: its pod ddcal-head-x7k2p is Running"),
        (FORBIDDEN, "nothing here says how its pod ddcal-head-x7k2p is; if that machine is gone for good"),
    ],
)
def test_where_nothing_is_proved_the_lock_stays(tmp_path, kubernetes, said, message):
    kubernetes(said)
    locked(tmp_path, Pod.here())
    with pytest.raises(BadInput, match=message):
        DriverLock(tmp_path, take_over=True)
    assert (tmp_path / LOCK).exists()


@pytest.mark.slow
def test_a_pod_that_is_terminating_is_waited_for(tmp_path, kubernetes, monkeypatch):
    kubernetes(TERMINATING, TERMINATING, NOT_FOUND)
    locked(tmp_path, Pod.here())
    assert DriverLock(tmp_path, take_over=True).taken_over
    kubernetes(TERMINATING)
    locked(tmp_path, Pod.here())
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.1)
    with pytest.raises(BadInput, match="is Terminating"):
        DriverLock(tmp_path, take_over=True)


@pytest.fixture
def bucket(s3_endpoint):
    """The place on S3 of a study whose driver is in the pod, on another machine than this."""
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    make_bucket(s3_endpoint, name)
    place = Bucket.at(f"s3://{name}/runs?endpoint_override={s3_endpoint}&scheme=http&region=us-east-1", "tiny")
    place.write(LOCK, json.dumps({**lock.described(), "host": "ddcal-head-x7k2p", "job": str(Pod.here())}).encode())
    return place


@pytest.mark.slow
def test_on_s3_too_a_pod_that_is_terminating_is_waited_for(tmp_path, kubernetes, monkeypatch, s3_endpoint, bucket):
    kubernetes(TERMINATING, TERMINATING, NOT_FOUND)
    with pytest.raises(BadInput, match="if its pod ddcal-head-x7k2p has ended, --take-over finds that out"):
        BucketLock(bucket, tmp_path)
    before = bucket.read(LOCK)
    BucketLock(bucket, tmp_path, take_over=True)
    assert bucket.read(LOCK) != before
    bucket.write(LOCK, before.content)
    kubernetes(TERMINATING)
    monkeypatch.setattr(bucket_lock, "WAIT_SECONDS", 0.1)
    (tmp_path / COPY).unlink()
    with pytest.raises(BadInput, match="is Terminating"):
        BucketLock(bucket, tmp_path, take_over=True)
    assert bucket.read(LOCK).content == before.content


def test_a_lock_on_s3_that_is_given_back_meanwhile_is_taken_at_once(tmp_path, kubernetes, bucket):
    """As a rule a driver that is told to end gives it back well before its pod is gone."""
    kubernetes(TERMINATING)
    giving_back = threading.Timer(0.5, bucket.delete, (LOCK,))
    giving_back.start()
    BucketLock(bucket, tmp_path, take_over=True)
    giving_back.join()
    assert bucket.read(LOCK).content == (tmp_path / COPY).read_bytes()


def test_the_kernel_s_lock_of_a_machine_that_is_gone_is_waited_for(tmp_path, kubernetes):
    """NFS keeps it for as long as the client's lease."""
    kubernetes(NOT_FOUND)
    locked(tmp_path, Pod.here())
    code = "import fcntl, sys; stream = open(sys.argv[1], 'a'); fcntl.flock(stream, fcntl.LOCK_EX); print(flush=True)"
    keeper = subprocess.Popen(
        [sys.executable, "-c", f"{code}; sys.stdin.read()", str(tmp_path / f".{LOCK}.living")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    keeper.stdout.readline()
    threading.Timer(1.0, keeper.kill).start()
    assert DriverLock(tmp_path, take_over=True).taken_over and keeper.wait() == -9


IMPORTS = "import signal, sys, time; from pathlib import Path; from ddcal.study.record.lock import DriverLock"


def test_a_driver_is_stopped_and_waited_for(tmp_path):
    (tmp_path / "tiny").mkdir()
    code = f"{IMPORTS}\nlock = DriverLock(Path(sys.argv[1]))\ndef end(*_):\n    time.sleep(0.3)\n    lock.release()\n"
    code += "    sys.exit(75)\nsignal.signal(signal.SIGTERM, end)\nprint(flush=True)\nsys.stdin.read()"
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "tiny")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    driver.stdout.readline()
    result = CliRunner().invoke(app, ["stop", str(tmp_path / "tiny")])
    assert result.exit_code == 0 and "has stopped: `ddcal resume` goes on with it" in result.output
    assert driver.poll() == 75, "it has ended by then"
    (tmp_path / "tiny" / LEDGER).write_text("{}\n")
    again = CliRunner().invoke(app, ["stop", str(tmp_path / "tiny")])
    assert again.exit_code == 0 and "does not run" in again.output
    for wrong, said in (
        (tmp_path / "other", "is not a study's folder"),
        ("s3://bucket/runs/tiny", "ddcal fetch s3://"),
    ):
        refused = CliRunner().invoke(app, ["stop", str(wrong)])
        assert refused.exit_code == 2 and said in refused.output


def test_a_driver_elsewhere_or_dead_is_not_stopped(tmp_path, kubernetes):
    locked(tmp_path, Pod.here())
    with pytest.raises(BadInput, match=f"its driver is process {os.getpid()} on ddcal-head-x7k2p: stop it there"):
        stop_driver(tmp_path)
    (tmp_path / LOCK).write_text(json.dumps(asdict(replace(Holder.here(), started=1))))
    assert not stop_driver(tmp_path), "its number was given out again"
    (tmp_path / LOCK).write_text("[]")
    with pytest.raises(BadInput, match="is not a lock of ddcal"):
        stop_driver(tmp_path)
