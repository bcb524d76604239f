"""The file for Kubernetes: its fields are KubeRay's, and it agrees with the study that it names and with the guide."""

import copy
import json
import re
import shlex
from pathlib import Path

import jsonschema  # ray brings it
import pytest
import yaml
from typer.main import get_command

from ddcal.cli import app
from ddcal.config import read_study
from ddcal.config.shipped import study_file

ROOT = Path(__file__).parents[2]
FILE = ROOT / "studies" / "cluster" / "kuberay.yaml"
FIELDS = json.loads((Path(__file__).parent / "kuberay_fields.json").read_text())
GUIDE = (ROOT / "ddcal" / "guide" / "kubernetes.md").read_text()


def documents():
    return list(yaml.safe_load_all(FILE.read_text()))


def document(kind):
    (found,) = [one for one in documents() if one["kind"] == kind]
    return found


def problems(one):
    """What the schema says against a document."""
    schema = {**FIELDS, "$ref": f"#/$defs/{one['kind']}"}
    del schema["oneOf"]
    found = jsonschema.Draft202012Validator(schema).iter_errors(one)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in found]


@pytest.fixture
def job():
    return document("RayJob")


def groups(job):
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def containers(job):
    return [container for group in groups(job) for container in group["template"]["spec"]["containers"]]


def command(job):
    """The command's options, and its study with the settings of the command line."""
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[0] == "ddcal"
    context = get_command(app).commands["run"].make_context("run", words[2:])
    return context.params, read_study(study_file(context.params["file"]), context.params["overrides"])


def test_the_fields_are_those_of_kuberay_and_kubernetes():
    jsonschema.Draft202012Validator.check_schema(FIELDS)
    kinds = [one["kind"] for one in documents()]
    assert kinds == ["ServiceAccount", "Role", "RoleBinding", "PersistentVolumeClaim", "RayJob"]
    assert {one["kind"]: problems(one) for one in documents()} == {kind: [] for kind in kinds}


PLANTED = {
    "a misspelling in the job": (("spec",), "backOffLimit", 20),
    "a misspelling in the cluster": (("spec", "rayClusterSpec"), "authOption", {"mode": "token"}),
    "a misspelling in the token's options": (("spec", "rayClusterSpec", "authOptions"), "secret", "ddcal-token"),
    "a misspelling in a pod": (
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec"),
        "terminationGracePeriod",
        30,
    ),
    "a misspelling in a container": (
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0),
        "lifeCycle",
        {},
    ),
    "a wrong type": (("spec",), "backoffLimit", "20"),
    "a wrong mode": (("spec",), "submissionMode", "K8SJobMode"),
    "a number among the parameters": (
        ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"),
        "num-cpus",
        0,
    ),
    "a Ray without tokens": (("spec", "rayClusterSpec"), "rayVersion", "2.51.0"),
    "another version of the API": ((), "apiVersion", "ray.io/v1alpha1"),
    "a time to live without a shutdown": (("spec",), "shutdownAfterJobFinishes", False),
    "a number as a variable": (
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "env", 3),
        "value",
        1,
    ),
}


@pytest.mark.parametrize("change", PLANTED)
def test_a_planted_mistake_is_found(job, change):
    path, name, value = PLANTED[change]
    wrong = copy.deepcopy(job)
    place = wrong
    for part in path:
        place = place[part]
    place[name] = value
    assert problems(wrong)


def test_a_missing_template_is_found(job):
    del job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    assert problems(job)


def test_the_command_is_the_idempotent_one_and_its_study_validates(job):
    options, study = command(job)
    assert options["resume"] and options["take_over"] and not options["debug"]
    assert options["output"].is_absolute(), "workers see the same folder"
    assert study.name == "quickstart"


def test_the_alternative_on_s3_is_a_command_too():
    text = FILE.read_text()
    lines = re.findall(r"^  # (entrypoint: >-|  (?:ddcal run|--set) .*)$", text, re.M)
    other = yaml.safe_load("\n".join(lines))
    options, study = command({"spec": other})
    assert options["resume"] and options["take_over"] and options["output"] == Path("/tmp/runs")
    assert "names /tmp/runs/quickstart" in text and study.name == "quickstart"
    assert study.storage.output == "s3://your-bucket/runs" and study.storage.store == "s3://your-bucket/store"
    assert study.search.concurrency == command(document("RayJob"))[1].search.concurrency


def test_what_pods_ask_for_agrees_with_the_study(job):
    """Its trials at a time are what the workers have room for, and the head runs none."""
    _, study = command(job)
    head, *workers = groups(job)
    assert head["rayStartParams"]["num-cpus"] == "0"
    room = 0
    for group in workers:
        (container,) = group["template"]["spec"]["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"], "Ray is told the limits"
        assert "num-cpus" not in group["rayStartParams"] and "num-gpus" not in group["rayStartParams"]
        cpus, gpus = int(resources["limits"]["cpu"]), int(resources["limits"].get("nvidia.com/gpu", 0))
        at_once = cpus // study.resources.cpus
        assert at_once >= 1 and cpus % study.resources.cpus == 0
        if study.resources.gpu:
            at_once = min(at_once, int(gpus / study.resources.gpu))
        room += group["replicas"] * at_once
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    assert room == study.search.concurrency


def test_the_driver_is_stopped_before_its_pod_and_its_pod_is_known(job):
    options, study = command(job)
    head = groups(job)[0]["template"]["spec"]
    (container,) = head["containers"]
    limit, seconds, *stop = container["lifecycle"]["preStop"]["exec"]["command"]
    assert stop == ["ddcal", "stop", str(options["output"] / study.name)] and limit == "timeout"
    get_command(app).commands["stop"].make_context("stop", stop[2:])
    assert int(seconds) < head["terminationGracePeriodSeconds"]
    named = {one["name"]: one.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath") for one in container["env"]}
    for name in ("namespace", "name", "uid"):
        assert named[f"POD_{name.upper()}"] == f"metadata.{name}"
    assert head["restartPolicy"] == "Never", "in a container that begins again, the driver's pod would still be there"
    assert head["serviceAccountName"] == document("ServiceAccount")["metadata"]["name"]
    (subject,) = document("RoleBinding")["subjects"]
    assert subject["name"] == head["serviceAccountName"]
    assert document("RoleBinding")["roleRef"]["name"] == document("Role")["metadata"]["name"]
    assert document("Role")["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]


def test_all_pods_have_the_volume_the_image_and_the_data(job):
    options, _ = command(job)
    claim = document("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert len({container["image"] for container in containers(job)}) == 1
    for group in groups(job):
        (volume,) = group["template"]["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (container,) = group["template"]["spec"]["containers"]
        (mount,) = container["volumeMounts"]
        assert mount["name"] == volume["name"] and options["output"].is_relative_to(mount["mountPath"])
        variables = {one["name"]: one.get("value") for one in container["env"]}
        assert variables["DDCAL_DATA"].startswith(f"{mount['mountPath']}/")
        assert variables["RAY_USAGE_STATS_ENABLED"] == "0"


def test_the_cluster_asks_for_the_token_and_pins_the_ray_that_is_tested(job):
    import ray

    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ddcal-token"}
    assert cluster["rayVersion"] == ray.__version__
    assert "kubectl create secret generic ddcal-token --from-literal=auth_token=" in FILE.read_text()
    assert job["spec"]["backoffLimit"] >= 10 and job["spec"]["submissionMode"] == "K8sJobMode"
    assert "activeDeadlineSeconds" not in job["spec"], "KubeRay does not retry after it"


def test_the_guide_shows_what_the_file_has(job):
    assert f"    {job['spec']['entrypoint']}\n" in GUIDE
    (image,) = {container["image"] for container in containers(job)}
    assert GUIDE.count(image) == 2
    version = job["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"rayproject/ray:{version}-" in GUIDE and f"ray[default,tune]=={version}" in GUIDE
    spec = groups(job)[0]["template"]["spec"]
    assert f"`terminationGracePeriodSeconds` ({spec['terminationGracePeriodSeconds']})" in GUIDE
    assert "kubectl create secret generic ddcal-token" in GUIDE
    for said in ("1.6.2", "1.7.0"):
        assert said in GUIDE and said in FILE.read_text() and said in FIELDS["description"]
