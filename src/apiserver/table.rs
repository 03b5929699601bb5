//! Tables: what `kubectl get` shows (`meta.k8s.io/v1` `Table`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::catalog::Resource;
use super::encoding::{self, ListMeta};
use crate::api::status::ApiError;
use crate::store::Entry;

/// How much of the object comes with its row (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// From the query parameter.
    ///
    /// # Errors
    /// 400 for another word.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => {
                Err(ApiError::bad_request(format!("unrecognized includeObject value: {other:?}")))
            }
        }
    }
}

/// The table of a list.
///
/// # Errors
/// 500 when stored bytes are damaged.
pub fn of_list(
    resource: &Resource,
    meta: &ListMeta,
    entries: &[Entry],
    include: Include,
    now: Timestamp,
) -> Result<Value, ApiError> {
    let rows: Result<Vec<Value>, ApiError> =
        entries.iter().map(|entry| row(resource, entry, include, now)).collect();
    Ok(of_rows(resource, meta, rows?))
}

/// The table of one object.
///
/// # Errors
/// 500 when stored bytes are damaged.
pub fn of_entry(
    resource: &Resource,
    entry: &Entry,
    include: Include,
    now: Timestamp,
) -> Result<Value, ApiError> {
    let meta = ListMeta { revision: entry.modified, ..ListMeta::default() };
    Ok(of_rows(resource, &meta, vec![row(resource, entry, include, now)?]))
}

/// A table of rows that were made before.
pub fn of_rows(resource: &Resource, meta: &ListMeta, rows: Vec<Value>) -> Value {
    let columns = resource.strategy.column_definitions();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta.to_value(),
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn row(
    resource: &Resource,
    entry: &Entry,
    include: Include,
    now: Timestamp,
) -> Result<Value, ApiError> {
    let object = encoding::decode(resource, entry)?;
    let cells = resource.strategy.cells(&object, now);
    Ok(match include {
        Include::None => json!({"cells": cells, "object": null}),
        Include::Object => json!({"cells": cells, "object": object}),
        Include::Metadata => json!({
            "cells": cells,
            "object": {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"],
            },
        }),
    })
}
