//! What a kind does differently, as pure functions over objects. The generic registry calls them
//! in the order of Kubernetes' `registry/rest`: `prepare`, defaults, `validate`.
//!
//! A built-in kind is a row in [`crate::api::kinds`], functions in [`crate::api::defaults`] and
//! [`crate::api::validation`], and a `Rules` value here that names them with its columns.

mod cells;
mod cluster;
mod config;
mod custom;
mod event;
mod kinds;
mod machinery;
mod network;
mod pod;
mod rules;
mod workload;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::api::Object;
use crate::api::status::FieldError;

pub use kinds::strategies;

/// Which part of an object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The main resource: everything but the status (where the kind has a status subresource).
    Main,
    /// The status subresource.
    Status,
}

/// A column of `kubectl get`.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// As `Ready`.
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// What the column tells.
    pub description: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: u8,
}

impl Column {
    /// As a table tells it.
    pub fn definition(&self) -> Value {
        serde_json::json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

/// How long a deletion waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// The object goes at once.
    Immediate,
    /// The object stays, with `deletionTimestamp`, so many seconds, until its node (or another
    /// actor) deletes it with 0.
    Seconds(i64),
}

/// What a kind does differently. Every method has the answer of a plain kind as its default.
pub trait Strategy: Send + Sync + 'static {
    /// Set what Kubernetes sets when a field is left out (its `SetDefaults_*`). Idempotent.
    fn default(&self, _object: &mut Object) {}

    /// Before a create: drop what a client may not set (the status), set what the server owns.
    fn prepare_create(&self, _object: &mut Object) {}

    /// Before an update of `part`: take over from `old` what a client may not change there.
    fn prepare_update(&self, _part: Part, _object: &mut Object, _old: &Object) {}

    /// The rules that an object must keep, by Kubernetes' own paths and wording.
    fn validate(&self, _object: &Object) -> Vec<FieldError> {
        Vec::new()
    }

    /// The rules of a change, besides those of [`Self::validate`]: what is immutable.
    fn validate_update(&self, _part: Part, _object: &Object, _old: &Object) -> Vec<FieldError> {
        Vec::new()
    }

    /// All rules of a change. A write to the status is not held to those of the rest.
    fn validate_change(
        &self,
        part: Option<Part>,
        object: &Object,
        old: &Object,
    ) -> Vec<FieldError> {
        let mut errors = match part {
            Some(Part::Status) => Vec::new(),
            _ => self.validate(object),
        };
        if let Some(part) = part {
            errors.extend(self.validate_update(part, object, old));
        }
        errors
    }

    /// Whether the change from `old` to `new` raises `metadata.generation` (`spec` changed), or
    /// the kind has no generation (`None`).
    fn generation_changes(&self, new: &Object, old: &Object) -> Option<bool> {
        let _ = (new, old);
        None
    }

    /// Whether an update may create the object (Kubernetes' `AllowCreateOnUpdate`).
    fn creates_on_update(&self) -> bool {
        false
    }

    /// Whether an update without a resourceVersion is let through.
    fn updates_unconditionally(&self) -> bool {
        true
    }

    /// How a deletion asked with `seconds` (or with nothing said) waits.
    fn grace(&self, _object: &Object, _seconds: Option<i64>) -> Grace {
        Grace::Immediate
    }

    /// Before an object that will not go at once is marked as being deleted (a namespace becomes
    /// `Terminating` here).
    fn prepare_delete(&self, _object: &mut Object) {}

    /// Whether something besides `metadata.finalizers` keeps a deleted object alive (a
    /// namespace's `spec.finalizers`).
    fn held(&self, _object: &Object) -> bool {
        false
    }

    /// Whether a deletion that happens at once answers the object (Kubernetes'
    /// `ReturnDeletedObject`) instead of a `Status`.
    fn returns_deleted(&self) -> bool {
        false
    }

    /// How long an object lives after its last write; `None`: until it is deleted.
    fn ttl(&self) -> Option<Duration> {
        None
    }

    /// From the form in which objects of this storage are kept into this version's.
    /// `None` where they are the same.
    fn conversion(&self) -> Option<&dyn Conversion> {
        None
    }

    /// Whether a write to the status may change metadata as well.
    fn status_takes_metadata(&self) -> bool {
        true
    }

    /// Words for the `Warning` header.
    fn warnings(&self, _object: &Object) -> Vec<String> {
        Vec::new()
    }

    /// The columns of its table, without the name column only where the kind differs from
    /// name and age.
    fn columns(&self) -> &'static [Column] {
        &NAME_AND_AGE
    }

    /// The same columns as a table tells them.
    fn column_definitions(&self) -> Vec<Value> {
        self.columns().iter().map(Column::definition).collect()
    }

    /// The cells of one row, a value a column.
    fn cells(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        vec![object["metadata"]["name"].clone(), age(object, now)]
    }
}

/// From the stored form to a served one and back, where versions differ in more than their name.
pub trait Conversion: Send + Sync {
    /// The served form of a stored object.
    fn to_served(&self, object: &mut Object);

    /// The stored form of a served object.
    fn to_stored(&self, object: &mut Object);
}

/// The columns of a kind that says nothing else.
pub const NAME_AND_AGE: [Column; 2] = [NAME, AGE];

/// The first column of every kind.
pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources, \
                  although some resources may allow a client to request the generation of an \
                  appropriate name automatically.",
    priority: 0,
};

/// The age column.
pub const AGE: Column = Column {
    name: "Age",
    kind: "string",
    format: "",
    description: "Time since the object was created.",
    priority: 0,
};

/// `5m3s` since the object was created.
pub fn age(object: &Object, now: Timestamp) -> Value {
    let created = object["metadata"]["creationTimestamp"].as_str();
    match created.and_then(|t| t.parse::<Timestamp>().ok()) {
        Some(created) => Value::String(human_duration(now.duration_since(created).as_secs())),
        None => Value::String("<unknown>".into()),
    }
}

/// A duration in seconds as `kubectl` shows it: `59s`, `3m25s`, `27h`, `3d4h`, `2y11d`.
pub fn human_duration(seconds: i64) -> String {
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    match () {
        () if seconds < -1 => "<invalid>".into(),
        () if seconds < 0 => "0s".into(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 2 * 365 => format!("{days}d"),
        () if days < 8 * 365 => two(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}
