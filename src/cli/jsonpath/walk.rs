//! What the steps of an expression select of a value.

use serde_json::Value;

use super::{Compare, DEPTH_MAX, FOUND_MAX, Operand, Part, Step};

pub(super) fn print_parts(parts: &[Part], root: &Value, here: &Value, text: &mut String) {
    for part in parts {
        match part {
            Part::Text(plain) => text.push_str(plain),
            Part::Path(steps) => {
                let found = walk(steps, root, here);
                let shown: Vec<String> = found.into_iter().map(shown).collect();
                text.push_str(&shown.join(" "));
            }
            Part::Range(steps, inner) => {
                for value in walk(steps, root, here) {
                    print_parts(inner, root, value, text);
                }
            }
        }
    }
}

/// Text as it is, anything else as JSON.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(super) fn walk<'v>(steps: &[Step], root: &'v Value, here: &'v Value) -> Vec<&'v Value> {
    let mut found = vec![here];
    for step in steps {
        let mut next = Vec::new();
        for value in found {
            take(step, root, value, &mut next);
            if next.len() > FOUND_MAX {
                next.truncate(FOUND_MAX);
                break;
            }
        }
        found = next;
    }
    found
}

fn take<'v>(step: &Step, root: &'v Value, value: &'v Value, into: &mut Vec<&'v Value>) {
    match step {
        Step::Root => into.push(root),
        Step::Field(name) => into.extend(value.get(name)),
        Step::Fields(names) => into.extend(names.iter().filter_map(|name| value.get(name))),
        Step::All => match value {
            Value::Array(list) => into.extend(list),
            Value::Object(map) => into.extend(map.values()),
            _ => {}
        },
        Step::Below => below(value, 0, into),
        Step::Indexes(all) => {
            let Value::Array(list) = value else { return };
            into.extend(all.iter().filter_map(|at| list.get(place(*at, list.len())?)));
        }
        Step::Slice { from, to, by, single } => {
            let Value::Array(list) = value else { return };
            if *single {
                into.extend(from.and_then(|at| list.get(place(at, list.len())?)));
                return;
            }
            let length = list.len() as i64;
            let edge = |at: i64| (if at < 0 { at + length } else { at }).clamp(0, length) as usize;
            let (from, to) = (edge(from.unwrap_or(0)), edge(to.unwrap_or(length)));
            let part = list.get(from..to).unwrap_or_default();
            into.extend(part.iter().step_by((*by).max(1) as usize));
        }
        Step::Filter(left, compared) => {
            let elements: Vec<&Value> = match value {
                Value::Array(list) => list.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            };
            into.extend(elements.into_iter().filter(|e| holds(left, compared.as_ref(), root, e)));
        }
    }
}

fn place(at: i64, length: usize) -> Option<usize> {
    usize::try_from(if at < 0 { at + length as i64 } else { at }).ok()
}

fn below<'v>(value: &'v Value, depth: usize, into: &mut Vec<&'v Value>) {
    if depth > DEPTH_MAX || into.len() > FOUND_MAX {
        return;
    }
    into.push(value);
    match value {
        Value::Array(list) => list.iter().for_each(|v| below(v, depth + 1, into)),
        Value::Object(map) => map.values().for_each(|v| below(v, depth + 1, into)),
        _ => {}
    }
}

fn holds(
    left: &[Step],
    compared: Option<&(Compare, Operand)>,
    root: &Value,
    element: &Value,
) -> bool {
    let found = walk(left, root, element);
    let Some((compare, right)) = compared else { return !found.is_empty() };
    let Some(left) = found.first() else { return false };
    let right = match right {
        Operand::Value(value) => value,
        Operand::Path(steps) => match walk(steps, root, element).first() {
            Some(value) => *value,
            None => return false,
        },
    };
    let order = match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left.partial_cmp(&right),
        _ => match (left.as_str(), right.as_str()) {
            (Some(left), Some(right)) => Some(left.cmp(right)),
            _ => None,
        },
    };
    match compare {
        Compare::Equal => order.map_or(*left == right, |o| o.is_eq()),
        Compare::NotEqual => order.map_or(*left != right, |o| o.is_ne()),
        Compare::Less => order.is_some_and(|o| o.is_lt()),
        Compare::LessOrEqual => order.is_some_and(|o| o.is_le()),
        Compare::Greater => order.is_some_and(|o| o.is_gt()),
        Compare::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
    }
}
