//! Ratcheting: what an object broke before, and a change leaves as it is, is not held against the
//! change (KEP-4008).

use serde_json::Value;

/// One step of a path: a field or key, or an index.
enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

/// The steps of `spec.ports[0].name` or `spec.labels[a.b]`.
fn steps(path: &str) -> Vec<Step<'_>> {
    let mut all = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let end = inside.find(']').unwrap_or(inside.len());
            let key = &inside[..end];
            all.push(key.parse().map_or(Step::Name(key), Step::Index));
            rest = inside.get(end + 1..).unwrap_or_default();
        } else {
            let plain = rest.strip_prefix('.').unwrap_or(rest);
            let end = plain.find(['.', '[']).unwrap_or(plain.len());
            all.push(Step::Name(&plain[..end]));
            rest = &plain[end..];
        }
    }
    all
}

/// The value at a path as errors write it.
pub(super) fn value_at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    steps(path).into_iter().try_fold(object, |at, step| match step {
        Step::Name(name) => at.get(name),
        Step::Index(index) => at.get(index).or_else(|| at.get(index.to_string())),
    })
}

/// Whether what an error is about is the same in both objects. Lists count as a whole: their
/// elements may have moved.
pub(super) fn is_unchanged(path: &str, new: &Value, old: &Value) -> bool {
    let list = path.find('[').map_or(path, |at| &path[..at]);
    match (value_at(new, list), value_at(old, list)) {
        (Some(new), Some(old)) => new == old,
        // Where a field is missing, what it is missing in.
        (None, None) => {
            let parent = list.rfind('.').map(|at| &list[..at]);
            let there = |of| parent.and_then(|parent| value_at(of, parent));
            there(new).is_some() && there(new) == there(old)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_not_changed_is_not_held_against_a_change() {
        let old = json!({"spec": {"a": 1, "list": [{"x": 1}], "m": {"k.l": 1}}, "status": {}});
        let new = json!({"spec": {"a": 1, "list": [{"x": 2}], "m": {"k.l": 1}}, "status": {}});
        for (path, unchanged) in [
            ("spec.a", true),
            ("spec.list[0].x", false),
            ("spec.m[k.l]", true),
            ("spec", false),
            ("status.missing", true),
            ("spec.missing", false),
            ("", false),
        ] {
            assert_eq!(is_unchanged(path, &new, &old), unchanged, "{path}");
        }
        assert!(!is_unchanged("spec.a", &new, &json!({"spec": {}})));
    }
}
