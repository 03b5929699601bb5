//! `metadata.managedFields`: who manages which fields, and what a write makes of it.

use serde_json::{Map, Value, json};

use super::set::FieldSet;
use super::walk::Compared;

/// So many entries of updates are kept; the oldest beyond them are merged.
const UPDATERS_MAX: usize = 10;

/// Who the merged entries belong to.
const ANCIENT: &str = "ancient-changes";

/// How an entry came to be. Ordered as entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Operation {
    Apply,
    #[default]
    Update,
}

/// One entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    pub operation: Operation,
    /// RFC 3339, whole seconds; empty where it is not known.
    pub time: String,
    pub manager: String,
    pub api_version: String,
    /// Empty: the main resource.
    pub subresource: String,
    pub fields: FieldSet,
}

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    pub manager: &'a str,
    pub operation: Operation,
    pub api_version: &'a str,
    pub subresource: &'a str,
    /// RFC 3339, whole seconds.
    pub now: &'a str,
}

impl Writer<'_> {
    /// Whether an entry is this writer's: appliers keep theirs whatever version they speak.
    pub(crate) fn owns(&self, entry: &Entry) -> bool {
        entry.manager == self.manager
            && entry.operation == self.operation
            && entry.subresource == self.subresource
            && (self.operation == Operation::Apply || entry.api_version == self.api_version)
    }

    fn entry(&self, fields: FieldSet) -> Entry {
        Entry {
            operation: self.operation,
            time: self.now.to_owned(),
            manager: self.manager.to_owned(),
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            fields,
        }
    }
}

/// The entries of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Managers(pub(crate) Vec<Entry>);

impl Managers {
    /// From `metadata.managedFields`. `None`: it is no list of sound entries.
    pub fn parse(written: Value) -> Option<Self> {
        let Value::Array(entries) = written else { return None };
        entries.into_iter().map(parse_entry).collect::<Option<Vec<_>>>().map(Self)
    }

    /// As `metadata.managedFields`.
    pub fn into_value(mut self) -> Value {
        self.0.sort_by(|a, b| {
            let key =
                |e: &Entry| (e.operation, e.time.clone(), e.manager.clone(), e.api_version.clone());
            key(a).cmp(&key(b)).then_with(|| a.subresource.cmp(&b.subresource))
        });
        Value::Array(self.0.into_iter().map(write_entry).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A writer made an object of this set.
    pub fn create(&mut self, fields: FieldSet, writer: &Writer<'_>) {
        self.take(fields, writer);
    }

    /// A writer changed the object: what it changed is its own now, what is gone is nobody's.
    pub fn update(&mut self, compared: Compared, writer: &Writer<'_>) {
        self.yield_to(&compared);
        if !compared.changed.is_empty() {
            self.take(compared.changed, writer);
        }
        self.cap();
    }

    /// Nobody manages any more what was changed or is gone.
    pub(crate) fn yield_to(&mut self, compared: &Compared) {
        for entry in &mut self.0 {
            entry.fields.subtract(&compared.changed);
            entry.fields.subtract(&compared.removed);
        }
        self.0.retain(|entry| !entry.fields.is_empty());
    }

    /// Add fields to the writer's entry.
    fn take(&mut self, fields: FieldSet, writer: &Writer<'_>) {
        match self.0.iter_mut().find(|entry| writer.owns(entry)) {
            Some(own) => {
                own.fields.add(&fields);
                own.time = writer.now.to_owned();
            }
            None => self.0.push(writer.entry(fields)),
        }
    }

    /// The writer's entry has exactly these fields from now on. Answers what it had.
    pub(crate) fn replace(&mut self, fields: FieldSet, writer: &Writer<'_>) -> FieldSet {
        match self.0.iter().position(|entry| writer.owns(entry)) {
            Some(at) => std::mem::replace(&mut self.0[at], writer.entry(fields)).fields,
            None => {
                self.0.push(writer.entry(fields));
                FieldSet::default()
            }
        }
    }

    /// The entries that are not the writer's.
    pub(crate) fn others<'a>(
        &'a self,
        writer: &'a Writer<'a>,
    ) -> impl Iterator<Item = &'a Entry> + 'a {
        self.0.iter().filter(|entry| !writer.owns(entry))
    }

    /// Everything that anybody manages.
    pub(crate) fn all(&self) -> FieldSet {
        let mut all = FieldSet::default();
        self.0.iter().for_each(|entry| all.add(&entry.fields));
        all
    }

    /// Merge the oldest entries of updates, version by version, until few enough are left.
    fn cap(&mut self) {
        let updaters = self.0.iter().filter(|e| e.operation == Operation::Update).count();
        let Some(mut over) = updaters.checked_sub(UPDATERS_MAX).filter(|over| *over > 0) else {
            return;
        };
        self.0.sort_by(|a, b| {
            b.operation.cmp(&a.operation).then(a.time.cmp(&b.time)).then(a.manager.cmp(&b.manager))
        });
        // The updaters come first now, the oldest of them at the head.
        let mut at = 1;
        while over > 0 && at < updaters.min(self.0.len()) {
            let version = self.0[at].api_version.clone();
            let first = self.0[..at].iter().position(|e| e.api_version == version);
            let Some(first) = first else {
                at += 1;
                continue;
            };
            let merged = self.0.remove(at);
            let bucket = &mut self.0[first];
            bucket.manager = ANCIENT.into();
            bucket.subresource.clear();
            bucket.fields.add(&merged.fields);
            bucket.time = merged.time;
            over -= 1;
        }
    }

    /// Whether two lists say the same but for their times.
    pub fn same_but_times(a: &Value, b: &Value) -> bool {
        let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return a == b };
        let rest = |entry: &Value| {
            let mut entry = entry.clone();
            entry.as_object_mut().map(|map| map.remove("time"));
            entry
        };
        // Entries are sorted by time, so that the order may differ.
        a.len() == b.len() && a.iter().all(|one| b.iter().any(|other| rest(one) == rest(other)))
    }
}

fn parse_entry(written: Value) -> Option<Entry> {
    let Value::Object(mut map) = written else { return None };
    let mut text = |field: &str| match map.remove(field) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let operation = match text("operation").as_str() {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    Some(Entry {
        operation,
        time: text("time"),
        manager: text("manager"),
        api_version: text("apiVersion"),
        subresource: text("subresource"),
        fields: match map.remove("fieldsV1")? {
            Value::Object(tree) => FieldSet(tree),
            _ => return None,
        },
    })
}

fn write_entry(entry: Entry) -> Value {
    let operation = match entry.operation {
        Operation::Apply => "Apply",
        Operation::Update => "Update",
    };
    let mut map = Map::new();
    map.insert("apiVersion".into(), entry.api_version.into());
    map.insert("fieldsType".into(), json!("FieldsV1"));
    map.insert("fieldsV1".into(), entry.fields.into_value());
    map.insert("manager".into(), entry.manager.into());
    map.insert("operation".into(), operation.into());
    for (field, text) in [("subresource", entry.subresource), ("time", entry.time)] {
        if !text.is_empty() {
            map.insert(field.into(), text.into());
        }
    }
    Value::Object(map)
}
