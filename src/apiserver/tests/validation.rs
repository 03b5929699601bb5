//! `docs/validation.tsv`: a row a rule a kind, and this test holds every one of them.
//!
//! | column | is |
//! |---|---|
//! | kind | `apps/v1 Deployment` |
//! | write | `base`: a sound object, on which the rows below stand; `create`, `update`: a merge patch of it; `missing`: a rule that is not kept yet |
//! | object or patch | JSON |
//! | what is told | the errors, with ` ; ` between; empty for `base` |

use serde_json::Value;

use crate::api::kinds::KindTable;
use crate::api::status::FieldError;
use crate::apiserver::strategy::{Part, strategies};

fn told(errors: &[FieldError]) -> String {
    let all: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.path, e.message)).collect();
    all.join(" ; ")
}

#[test]
#[ignore = "the table's rows that say `?` wait for their words"]
fn every_row_of_the_table_of_rules_holds() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/validation.tsv");
    let text = std::fs::read_to_string(path).expect("the table is there");
    let (table, find) = (KindTable::builtin(), strategies());
    let mut base = Value::Null;
    let (mut wrong, mut held) = (Vec::new(), 0);
    for (number, line) in text.lines().enumerate().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [kind, write, json, expected] = columns[..] else {
            panic!("line {}: four columns, not {}", number + 1, columns.len());
        };
        if write == "missing" {
            continue;
        }
        let (api_version, name) = kind.split_once(' ').expect("a version and a kind");
        let row = table.of(api_version, name).unwrap_or_else(|| panic!("{kind} is no kind"));
        let strategy = find(row);
        let said: Value = serde_json::from_str(json)
            .unwrap_or_else(|error| panic!("line {}: {error}: {json}", number + 1));
        let mut object = if write == "base" { said.clone() } else { base.clone() };
        if write != "base" {
            json_patch::merge(&mut object, &said);
        }
        strategy.default(&mut object);
        let found = match write {
            "update" => strategy.validate_update(Part::Main, &object, &base),
            _ => strategy.validate(&object),
        };
        if write == "base" {
            base = object;
        }
        held += 1;
        if told(&found) != expected {
            wrong.push(format!(
                "line {}: {kind} {json}\n  found:    {}\n  expected: {expected}",
                number + 1,
                told(&found)
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {held}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(held > 100, "only {held} rows");
}
