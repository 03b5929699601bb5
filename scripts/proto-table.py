#!/usr/bin/env python3
"""Writes src/api/proto/messages.txt: how the types of the Kubernetes API are written as protobuf.

Usage: scripts/proto-table.py K8S_IO

K8S_IO is a folder that holds the Go packages `api`, `apimachinery` and `apiextensions-apiserver` of
Kubernetes (Debian's golang-k8s-api-dev, golang-k8s-apimachinery-dev and
golang-k8s-apiextensions-apiserver-dev lay them at /usr/share/gocode/src/k8s.io). The tags of the
struct fields say the field numbers, and the Go types which fields can be told from their zero;
neither is in the OpenAPI definitions that types.txt is made from. Only facts are taken: names,
numbers, whether a field is a pointer. The format is described at the head of the written file.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
API = "io.k8s.api."
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
EXTENSIONS = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
AGGREGATOR = "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1."
PACKAGES = [
    *[(f"api/{group}/v1", f"{API}{group}.v1.") for group in [
        "admissionregistration", "apps", "authentication", "authorization", "autoscaling", "batch",
        "certificates", "coordination", "core", "discovery", "events", "flowcontrol", "networking",
        "node", "policy", "rbac", "resource", "scheduling", "storage",
    ]],
    ("api/autoscaling/v2", f"{API}autoscaling.v2."),
    ("apimachinery/pkg/apis/meta/v1", META),
    ("apiextensions-apiserver/pkg/apis/apiextensions/v1", EXTENSIONS),
]
# Written by hand in Go, or values of their own in types.txt.
OWN_FORMS = {"Time", "MicroTime", "Timestamp", "FieldsV1", "JSON", "Verbs", "Duration",
             "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrStringArray"}
# Which Go types of `any` fields have a message of their own.
FORMS = {"JSONSchemaPropsOrArray": "orArray", "JSONSchemaPropsOrBool": "orBool",
         "JSONSchemaPropsOrStringArray": "orStringArray"}
# The types of kube-aggregator, which is no package of Debian's.
OTHERS = {
    AGGREGATOR + "APIService": ["metadata! 1", "spec! 2", "status! 3"],
    AGGREGATOR + "APIServiceCondition": [
        "type! 1", "status! 2", "lastTransitionTime! 3", "reason 4", "message 5"],
    AGGREGATOR + "APIServiceSpec": [
        "service? 1", "group 2", "version 3", "insecureSkipTLSVerify 4", "caBundle 5",
        "groupPriorityMinimum! 7", "versionPriority! 8"],
    AGGREGATOR + "APIServiceStatus": ["conditions 1"],
    AGGREGATOR + "ServiceReference": ["namespace 1", "name 2", "port? 3"],
}
HEAD = """# Messages of the Kubernetes API, written by scripts/proto-table.py from the Go types.
# `@TYPE` starts a message (`~` stands for io.k8s.api., `^` for meta/v1, `%` for apiextensions/v1).
# A line below it is a field, in the order of the numbers: `name[?|!] NUMBER [FORM]`. `?`: a
# pointer, absent or there; `!`: always in Go's JSON, also when zero; neither: left out of the JSON
# where zero. `= NUMBER TYPE`: the fields of TYPE, inlined in JSON, are a message of their own. Forms
# are orArray, orBool and orStringArray, of which a JSON schema consists.
"""
STRUCT = re.compile(r"^type (\w+) struct ?\{(\}|\n.*?^\})", re.M | re.S)
FIELD = re.compile(r"^\s*(?:(\w+)\s+)?([\w.*\[\]]+)\s+`(.*)`\s*(?://.*)?$")
TAG = re.compile(r'(\w+):"([^"]*)"')


def short(name):
    for long, mark in ((META, "^"), (EXTENSIONS, "%"), (API, "~")):
        if name.startswith(long):
            return mark + name[len(long):]
    return name


def field_of(line, package, structs):
    """A line of a struct as (number, text), or nothing."""
    found = FIELD.match(line)
    if not found:
        return None
    go_type, tags = found[2], dict(TAG.findall(found[3]))
    told = tags.get("protobuf", "").split(",")
    if len(told) < 2 or not told[1].isdigit():
        return None
    number, json = int(told[1]), tags["json"].split(",")
    bare = go_type.lstrip("*")
    if "inline" in json[1:]:
        assert not go_type.startswith("*"), f"{line}: an inlined pointer"
        return number, f"= {number} {short(package + bare)}"
    last = bare.split("]")[-1].split(".")[-1]
    struct = not re.match(r"\[\]|map\[", bare) and (
        last in structs or last in ("Quantity", "IntOrString", "RawExtension", "Time", "MicroTime"))
    if go_type.startswith("*"):
        mark = "?"
    elif "omitzero" in json[1:]:
        mark = ""
    elif struct or "omitempty" not in json[1:]:
        mark = "!"
    else:
        mark = ""
    form = FORMS.get(last, "")
    return number, f"{json[0]}{mark} {number} {form}".rstrip()


def main(folder):
    texts = {}
    for path, package in PACKAGES:
        files = sorted((pathlib.Path(folder) / path).glob("*.go"))
        texts[package] = "\n".join(
            f.read_text() for f in files if not re.search(r"_test|generated|zz_", f.name))
    structs = {name for text in texts.values() for name, _ in STRUCT.findall(text)}
    done = {}
    for package, text in texts.items():
        for name, body in STRUCT.findall(text):
            if name in OWN_FORMS:
                continue
            fields = [field_of(line, package, structs) for line in body.splitlines()]
            fields = [f for f in fields if f]
            is_list = name.endswith("List") and any(f[1].startswith("items") for f in fields)
            if not is_list:
                done[package + name] = fields
    for name, fields in OTHERS.items():
        done[name] = [(int(text.split()[1]), text) for text in fields]
    with (ROOT / "src/api/proto/messages.txt").open("w") as out:
        out.write(HEAD)
        for name in sorted(done):
            out.write(f"@{short(name)}\n")
            out.writelines(f"{text}\n" for _, text in sorted(done[name]))


if __name__ == "__main__":
    main(sys.argv[1])
