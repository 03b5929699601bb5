#!/usr/bin/env python3
"""Writes src/api/schema/types.txt: the types of the Kubernetes API with the facts that k8s-openapi's
schemas lack (list types, list-map keys, patch strategies, merge keys, map types).

Usage: pip download --no-deps kubernetes-validate==1.37.0 -d /tmp
       scripts/schema-table.py /tmp/kubernetes_validate-1.37.0-py3-none-any.whl

The source is the folder of the newest Kubernetes in that wheel. The roots are read from the rows
of src/api/kinds/builtin.rs; every type that they reach is written. The format is described at the
head of the written file.
"""
import json
import pathlib
import re
import sys
import zipfile

RELEASE = "v1.37.0"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
ROOT = pathlib.Path(__file__).resolve().parent.parent
EXTRA = [
    "io.k8s.api.autoscaling.v1.Scale",
    "io.k8s.api.policy.v1.Eviction",
    "io.k8s.api.authentication.v1.TokenRequest",
    META + "DeleteOptions",
    META + "Status",
]
# The groups whose types are not in k8s.io/api.
FOREIGN = {
    "apiextensions.k8s.io": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.",
    "apiregistration.k8s.io": "io.k8s.kube-aggregator.pkg.apis.apiregistration.",
}
EXTENSIONS = FOREIGN["apiextensions.k8s.io"] + "v1."
SCALARS = {
    EXTENSIONS + "JSON": "any",
    EXTENSIONS + "JSONSchemaPropsOrArray": "any",
    EXTENSIONS + "JSONSchemaPropsOrBool": "any",
    EXTENSIONS + "JSONSchemaPropsOrStringArray": "any",
    META + "Time": "time",
    META + "MicroTime": "microtime",
    META + "FieldsV1": "object",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "object",
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "intstr",
}
HEAD = """# Types of the Kubernetes API, written by scripts/schema-table.py from the definitions of {release}.
# `@TYPE [atomic]` starts a type (`~` stands for io.k8s.api., `^` for meta/v1, `atomic` says that
# apply takes its maps whole). A line below it is a field: `name[!] type [facts]`, `!` for
# required; types are string bool int32 int64 double bytes time microtime quantity intstr any
# object, []T, {{}}T or another TYPE; facts are list=atomic|set|map:KEYS, merge=KEY,
# strategy=merge,retainKeys,replace, map=atomic|granular.
"""


def kind_of(node):
    """The JSON type of a node, without the null that the wheel adds."""
    kind = node.get("type")
    if isinstance(kind, list):
        kind = next(k for k in kind if k != "null")
    return kind


def short(name):
    if name.startswith(META):
        return "^" + name[len(META):]
    return name.replace("io.k8s.api.", "~", 1)


def type_of(node, seen):
    ref = node.get("$ref")
    if ref:
        name = ref.rsplit("/", 1)[1]
        if name in SCALARS:
            return SCALARS[name]
        seen.append(name)
        return short(name)
    if "oneOf" in node:
        kinds = {kind_of(one) for one in node["oneOf"]}
        return {frozenset({"string", "integer"}): "intstr",
                frozenset({"string", "number"}): "quantity"}[frozenset(kinds)]
    kind = kind_of(node)
    if kind == "array":
        return "[]" + type_of(node["items"], seen)
    if kind == "object":
        inner = node.get("additionalProperties")
        return "{}" + type_of(inner, seen) if isinstance(inner, dict) else "object"
    if kind == "string":
        return {"byte": "bytes", "date-time": "time"}.get(node.get("format"), "string")
    return {"boolean": "bool", "number": "double", None: "any"}.get(kind) or node.get("format", "int64")


def facts(node):
    told = []
    listed = node.get("x-kubernetes-list-type")
    if listed == "map":
        told.append("list=map:" + ",".join(node["x-kubernetes-list-map-keys"]))
    elif listed:
        told.append("list=" + listed)
    if "x-kubernetes-patch-merge-key" in node:
        told.append("merge=" + node["x-kubernetes-patch-merge-key"])
    if "x-kubernetes-patch-strategy" in node:
        told.append("strategy=" + node["x-kubernetes-patch-strategy"])
    if "x-kubernetes-map-type" in node:
        told.append("map=" + node["x-kubernetes-map-type"])
    return told


def roots():
    rows = (ROOT / "src/api/kinds/builtin.rs").read_text()
    found = re.findall(r'row\(\s*"([^"]*)",\s*"([^"]*)",\s*"([^"]*)",', rows)
    assert len(found) > 40, "the rows of the kinds table were not found"
    for group, version, kind in found:
        package = group.split(".")[0] or "core"
        yield FOREIGN.get(group, f"io.k8s.api.{package}.") + f"{version}.{kind}"
    yield from EXTRA


def main(wheel):
    path = f"kubernetes_validate/kubernetes-json-schema/{RELEASE}-local/_definitions.json"
    definitions = json.loads(zipfile.ZipFile(wheel).read(path))["$defs"]
    open_types, done = list(roots()), {}
    while open_types:
        name = open_types.pop()
        if name in done:
            continue
        node = definitions[name]
        assert kind_of(node) == "object", f"{name} is no struct: give it a scalar type"
        required = set(node.get("required", []))
        lines = []
        for field, inner in sorted(node.get("properties", {}).items()):
            mark = "!" if field in required else ""
            lines.append(" ".join([field + mark, type_of(inner, open_types), *facts(inner)]))
        done[name] = (" atomic" if node.get("x-kubernetes-map-type") == "atomic" else "", lines)
    with (ROOT / "src/api/schema/types.txt").open("w") as out:
        out.write(HEAD.format(release=RELEASE))
        for name in sorted(done):
            told = done[name]
            out.write(f"@{short(name)}{told[0]}\n")
            out.writelines(line + "\n" for line in told[1])


if __name__ == "__main__":
    main(sys.argv[1])
