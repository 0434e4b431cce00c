"""The manifests, as they lie there and as submit.sh fills them in. `kubernetes-validate` (README) knows the schemas."""

import json
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "launch" / "kubernetes"
NEEDED = ["--name", "x", "--image", "registry.example:5000/a/b@sha256:0a", "--pvc", "shared"]


def filled(launch, *options, arguments=("--config", "c")):
    done = launch("kubernetes/submit.sh", "--dry_run", *NEEDED, *options, "--", *arguments)
    assert done.returncode == 0, done.err
    return list(yaml.safe_load_all(done.out))


def job_of(manifest):
    """The Job's spec and its pod's, of either manifest."""
    *_, last = manifest
    if last["kind"] == "JobSet":
        (replicated,) = last["spec"]["replicatedJobs"]
        assert replicated["replicas"] == 1
        last = replicated["template"]
    return last["spec"], last["spec"]["template"]["spec"]


def environment(pod):
    return {one["name"]: one["value"] for one in pod["containers"][0]["env"]}


@pytest.fixture(params=["job", "jobset"])
def manifest(request):
    return list(yaml.safe_load_all((FOLDER / f"{request.param}.yaml").read_text()))


def test_pods_are_confined(manifest):
    _, pod = job_of(manifest)
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not any(key in pod for key in ("hostNetwork", "hostPID", "hostIPC"))
    assert not any("hostPath" in volume for volume in pod["volumes"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_statuses(manifest):
    job, pod = job_of(manifest)
    mistake, saved, disrupted = job["podFailurePolicy"]["rules"]
    name = pod["containers"][0]["name"]
    assert mistake == {"action": "FailJob", "onExitCodes": {"containerName": name, "operator": "In", "values": [2]}}
    assert saved == {"action": "Ignore", "onExitCodes": {"containerName": name, "operator": "In", "values": [75]}}
    assert disrupted["action"] == "Ignore"
    assert environment(pod)["CROPJAX_SAVED_STATUS"] == "75"
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 60


def test_manifests_agree():
    """The JobSet's pods are the Job's, but for where they meet."""
    (job, pod), (set_job, set_pod) = (
        job_of(list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))) for name in ("job", "jobset")
    )
    assert job.pop("backoffLimit") == 3 * job["completions"]
    assert set_job.pop("backoffLimit") == 0
    assert pod.pop("subdomain") == "cropjax"  # JobSet sets it
    for one in (pod, set_pod):
        (address,) = [e for e in one["containers"][0]["env"] if e["name"] == "JAX_COORDINATOR_ADDRESS"]
        address["value"] = ""
    assert job == set_job


def test_filled_job(launch):
    service, job = manifest = filled(launch, "--hosts", "4", "--gpus", "8")
    spec, pod = job_of(manifest)
    assert service["metadata"]["name"] == job["metadata"]["name"] == pod["subdomain"] == "x"
    assert service["spec"]["selector"] == {"job-name": "x"}
    assert service["spec"]["clusterIP"] == "None"
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (4, 4, 12)
    assert spec["completionMode"] == "Indexed"
    assert environment(pod)["JAX_COORDINATOR_ADDRESS"] == "x-0.x:61440"
    assert environment(pod)["JAX_NUM_PROCESSES"] == "4"
    (container,) = pod["containers"]
    assert container["image"] == NEEDED[3]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert container["resources"]["requests"] == {"cpu": "32", "memory": "128Gi"}
    assert {"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}} in pod["volumes"]


def test_filled_jobset(launch):
    (jobset,) = manifest = filled(launch, "--jobset", "--hosts", "4")
    spec, pod = job_of(manifest)
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobset["metadata"]["name"] == jobset["spec"]["network"]["subdomain"] == "x"
    host = jobset["spec"]["replicatedJobs"][0]["name"]
    assert environment(pod)["JAX_COORDINATOR_ADDRESS"] == f"x-{host}-0-0.x:61440"
    assert jobset["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"
    assert (spec["completions"], spec["backoffLimit"]) == (4, 0)


def test_nothing_is_left_to_fill_in(launch):
    """Defaults filled in give the manifests as they lie there."""
    for name, more in [("job", []), ("jobset", ["--jobset"])]:
        here = list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))
        options = ["--name", "cropjax", "--image", "cropjax", "--pvc", "cropjax", *more]
        arguments = ("--config", "configs/demo.py", "--workdir", "runs/cropjax")
        assert filled(launch, *options, arguments=arguments) == here


def test_arguments_arrive(launch):
    words = ["--config", 'a "b" \\ c: #', "'", "", "$HOME", "{}", "é", "- x", "# --name"]
    for more in ([], ["--jobset"]):
        _, pod = job_of(filled(launch, *more, arguments=words))
        assert pod["containers"][0]["args"] == words


def test_goes_to_kubectl(launch):
    launch.program("kubectl", 'echo "$@"; cat')
    done = launch("kubernetes/submit.sh", *NEEDED, "--", "--config", "c")
    first, rest = done.out.split("\n", 1)
    assert first == "apply -f -"
    assert list(yaml.safe_load_all(rest)) == filled(launch)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--name", "X"], "--name 'X'"),
        (["--name", "x" * 51], "--name"),
        (["--hosts", "0"], "--hosts '0'"),
        (["--gpus", "many"], "--gpus 'many'"),
        (["--pvc", "a b"], "--pvc 'a b'"),
        (["--image", 'a"\nb: c'], "--image"),
        (["--image"], "--image wants a value"),
        (["--config", "c"], "after --"),
    ],
)
def test_mistakes(launch, options, wanted):
    last = [] if options == ["--image"] else ["--", "--config", "c"]
    done = launch("kubernetes/submit.sh", *NEEDED, *options, *last)
    assert (done.returncode, done.out) == (2, "")
    assert wanted in done.err


def test_a_line_break_is_refused(launch):
    done = launch("kubernetes/submit.sh", "--dry_run", *NEEDED, "--", json.dumps("a") + "\nb: c")
    assert (done.returncode, done.out) == (2, "")
    assert "line break" in done.err
