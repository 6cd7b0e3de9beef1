"""A strict schema of what infra/kuberay uses of Kubernetes and KubeRay (ray.io/v1 as of 1.7): every object is closed, so a key that is misspelt, or that
nobody looked up, fails. The names are those of Kubernetes' API and of KubeRay's CRD reference.
"""

from typing import Any

TEXT, COUNT, YES = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1}
WORDS = {"type": "object", "additionalProperties": TEXT}
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|Mi|Gi)?$"}
IMAGE = {"type": "string", "pattern": r"@sha256:[0-9a-f]{64}$"}


def closed(required: dict[str, Any] | None = None, **optional: Any) -> dict[str, Any]:
    """An object with these keys and no other."""
    required = required or {}
    return {"type": "object", "properties": {**required, **optional}, "required": list(required), "additionalProperties": False}


def many(item: Any) -> dict[str, Any]:
    """A list that is not empty."""
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*words: Any) -> dict[str, Any]:
    """One of these words."""
    return {"enum": list(words)}


QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
RESOURCES = closed({"requests": QUANTITIES, "limits": QUANTITIES})
SECCOMP = closed({"type": one_of("RuntimeDefault", "Localhost")})
CONTAINER_SECURITY = closed(
    runAsNonRoot=YES,
    readOnlyRootFilesystem=YES,
    allowPrivilegeEscalation=YES,
    capabilities=closed({"drop": TEXTS}),
    seccompProfile=SECCOMP,
)
POD_SECURITY = closed(runAsNonRoot=YES, runAsUser=COUNT, runAsGroup=COUNT, fsGroup=COUNT, seccompProfile=SECCOMP)
MOUNT = closed({"name": TEXT, "mountPath": TEXT}, readOnly=YES)
PROBE = closed({"exec": closed({"command": TEXTS})}, initialDelaySeconds=COUNT, periodSeconds=COUNT, timeoutSeconds=COUNT, failureThreshold=COUNT)
CONTAINER = closed(
    {"name": TEXT, "image": IMAGE, "securityContext": CONTAINER_SECURITY, "resources": RESOURCES, "volumeMounts": many(MOUNT)},
    env=many(closed({"name": TEXT, "value": TEXT})),
    livenessProbe=PROBE,
    readinessProbe=PROBE,
)
FILES = many(closed({"key": TEXT, "path": TEXT}))
PROJECTED = closed(
    {
        "sources": many(
            closed(
                serviceAccountToken=closed({"path": TEXT}, expirationSeconds=COUNT),
                configMap=closed({"name": TEXT, "items": FILES}),
                downwardAPI=closed({"items": many(closed({"path": TEXT, "fieldRef": closed({"fieldPath": TEXT})}))}),
            )
        )
    },
    defaultMode=COUNT,
)
VOLUME = closed({"name": TEXT}, emptyDir=closed(medium=one_of("Memory"), sizeLimit=QUANTITY), projected=PROJECTED)
POD = closed(
    {"serviceAccountName": TEXT, "automountServiceAccountToken": YES, "securityContext": POD_SECURITY, "containers": many(CONTAINER), "volumes": many(VOLUME)},
    enableServiceLinks=YES,
    restartPolicy=one_of("Never", "Always", "OnFailure"),
    nodeSelector=WORDS,
    tolerations=many(closed({"key": TEXT, "operator": one_of("Exists", "Equal"), "effect": one_of("NoSchedule", "NoExecute")})),
)
TEMPLATE = closed({"metadata": closed({"labels": WORDS}), "spec": POD})
HEAD = closed({"rayStartParams": WORDS, "template": TEMPLATE}, serviceType=one_of("ClusterIP"))
WORKERS = closed({"groupName": TEXT, "minReplicas": COUNT, "replicas": COUNT, "maxReplicas": COUNT, "rayStartParams": WORDS, "template": TEMPLATE})
AUTOSCALER = closed(
    {"version": one_of("v1", "v2"), "resources": RESOURCES, "securityContext": CONTAINER_SECURITY, "volumeMounts": many(MOUNT)}, idleTimeoutSeconds=COUNT
)
CLUSTER = closed(
    {
        "rayVersion": TEXT,
        "authOptions": closed({"mode": one_of("token", "disabled")}),
        "enableInTreeAutoscaling": YES,
        "autoscalerOptions": AUTOSCALER,
        "headGroupSpec": HEAD,
        "workerGroupSpecs": many(WORKERS),
    }
)
PEER = closed(
    podSelector=closed(matchLabels=WORDS),
    namespaceSelector=closed(matchLabels=WORDS),
    ipBlock=closed({"cidr": TEXT}, **{"except": TEXTS}),
)
PORTS = many(closed({"protocol": one_of("TCP", "UDP"), "port": COUNT}))
SPECS = {
    "RayJob": closed(
        {"entrypoint": TEXT, "rayClusterSpec": CLUSTER},
        submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        backoffLimit=COUNT,
        shutdownAfterJobFinishes=YES,
        ttlSecondsAfterFinished=COUNT,
    ),
    "RayService": closed({"serveConfigV2": TEXT, "rayClusterConfig": CLUSTER}, excludeHeadPodFromServeSvc=YES),
    "NetworkPolicy": closed(
        {"podSelector": closed(matchLabels=WORDS), "policyTypes": many(one_of("Ingress", "Egress"))},
        ingress=many(closed({"from": many(PEER)}, ports=PORTS)),
        egress=many(closed({"to": many(PEER)}, ports=PORTS)),
    ),
}
VERSIONS = {"RayJob": "ray.io/v1", "RayService": "ray.io/v1", "NetworkPolicy": "networking.k8s.io/v1", "Namespace": "v1", "ServiceAccount": "v1"}


def schema(kind: str) -> dict[str, Any]:
    """The schema of a document of a kind; raises `KeyError` for a kind that infra/kuberay does not use."""
    metadata = closed({"name": TEXT}, namespace=one_of("foodray"), labels=WORDS, annotations=WORDS)
    head = {"apiVersion": one_of(VERSIONS[kind]), "kind": one_of(kind), "metadata": metadata}
    if kind in SPECS:
        return closed({**head, "spec": SPECS[kind]})
    return closed({**head, "automountServiceAccountToken": YES}) if kind == "ServiceAccount" else closed(head)
