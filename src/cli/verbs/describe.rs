//! `describe`: everything about an object, for people: what it is, its fields as an outline, and
//! its events.

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::target::{self, Narrow, elements, name_of, namespace_of};
use crate::cli::call::{Connection, JSON};
use crate::cli::duration;
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::cli::resources::{Discovery, Resource};
use crate::cli::table::align;

/// The most events that are shown, the newest.
const EVENTS_MAX: usize = 50;
/// The longest value that is shown in a line.
const VALUE_CHARS_MAX: usize = 2000;

/// What `describe` is asked.
#[derive(Debug, Clone, Args)]
pub struct DescribeArgs {
    /// KIND[,KIND] [NAME…] or KIND/NAME…
    #[arg(required = true, value_name = "KIND [NAME]")]
    pub objects: Vec<String>,
    /// Those with these labels
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pub selector: String,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Whether events are shown
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1)]
    #[arg(default_missing_value = "true", require_equals = true)]
    pub show_events: bool,
}

/// Describes objects.
///
/// # Errors
/// Bad usage, no server, an unknown kind.
pub async fn run(
    args: &DescribeArgs,
    connection: &Connection,
    out: &mut Out,
) -> Result<(), Failure> {
    let discovery = Discovery::of(connection).await?;
    let targets = target::targets(&discovery, &args.objects)?;
    let narrow = Narrow {
        selector: &args.selector,
        all_namespaces: args.all_namespaces,
        ..Narrow::default()
    };
    let mut first = true;
    for named in target::named(connection, &targets, narrow).await? {
        let object = match connection.get(&named.path(), JSON).await {
            Ok(object) => object,
            Err(failure) => {
                out.fail(failure)?;
                continue;
            }
        };
        if !first {
            out.raw(b"\n\n")?;
        }
        first = false;
        for line in outline(&object) {
            out.line(line)?;
        }
        if args.show_events {
            let events = events(connection, &discovery, &object).await?;
            for line in event_lines(&events, Timestamp::now()) {
                out.line(line)?;
            }
        }
    }
    if first && !out.failed() {
        out.note(format!("No resources found in {} namespace.", connection.namespace))?;
    }
    Ok(())
}

/// The events about an object, the newest last.
async fn events(
    connection: &Connection,
    discovery: &Discovery,
    object: &Value,
) -> Result<Vec<Value>, Failure> {
    let Ok(resource): Result<&Resource, _> = discovery.find("events.v1") else {
        return Ok(Vec::new());
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let fields = format!(
        "involvedObject.name={},involvedObject.namespace={},involvedObject.kind={},\
         involvedObject.uid={}",
        name_of(object),
        namespace_of(object),
        text(&object["kind"]),
        text(&metadata["uid"])
    );
    // Events about what has no namespace live in the default one.
    let namespace = match namespace_of(object) {
        "" => "default",
        namespace => namespace,
    };
    let path = resource.path(Some(namespace));
    let narrow = Narrow { fields: &fields, ..Narrow::default() };
    let mut found = target::list_at(connection, resource, &path, narrow).await?;
    found.sort_by_key(|event| seen(event).map(str::to_owned));
    Ok(found)
}

fn seen(event: &Value) -> Option<&str> {
    [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ]
    .into_iter()
    .find_map(Value::as_str)
}

fn event_lines(events: &[Value], now: Timestamp) -> Vec<String> {
    if events.is_empty() {
        return vec!["Events:  <none>".to_owned()];
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    let age = |time: Option<&str>| -> String {
        let time: Option<Timestamp> = time.and_then(|t| t.parse().ok());
        let Some(time) = time else { return "<unknown>".to_owned() };
        let since = std::time::Duration::try_from(now.duration_since(time)).unwrap_or_default();
        duration::human(since)
    };
    let heads = ["Type", "Reason", "Age", "From", "Message"].map(str::to_owned).to_vec();
    let rule = heads.iter().map(|head| "-".repeat(head.len())).collect();
    let mut lines = vec![heads, rule];
    for event in &events[events.len().saturating_sub(EVENTS_MAX)..] {
        let count = [&event["series"]["count"], &event["count"]];
        let count = count.into_iter().find_map(Value::as_i64).unwrap_or(1);
        let last = age(seen(event));
        let when = match event["firstTimestamp"].as_str().or(event["eventTime"].as_str()) {
            first @ Some(_) if count > 1 => format!("{last} (x{count} over {})", age(first)),
            _ => last,
        };
        let from = match event["source"]["component"].as_str() {
            Some(component) if !component.is_empty() => component.to_owned(),
            _ => text(&event["reportingComponent"]),
        };
        lines.push(vec![
            text(&event["type"]),
            text(&event["reason"]),
            when,
            from,
            text(&event["message"]),
        ]);
    }
    let mut told = vec!["Events:".to_owned()];
    told.extend(align(&lines, &mut Vec::new()).into_iter().map(|line| format!("  {line}")));
    told
}

/// An object as an outline: first what it is, then its fields, named in words.
fn outline(object: &Value) -> Vec<String> {
    let metadata = &object["metadata"];
    let mut lines = Lines::default();
    lines.pair(0, "Name", name_of(object));
    if !namespace_of(object).is_empty() {
        lines.pair(0, "Namespace", namespace_of(object));
    }
    lines.map(0, "Labels", &metadata["labels"]);
    lines.map(0, "Annotations", &metadata["annotations"]);
    lines.pair(0, "API Version", object["apiVersion"].as_str().unwrap_or_default());
    lines.pair(0, "Kind", object["kind"].as_str().unwrap_or_default());
    lines.pair(0, "Created", metadata["creationTimestamp"].as_str().unwrap_or("<unknown>"));
    if let Some(deleted) = metadata["deletionTimestamp"].as_str() {
        lines.pair(0, "Status", &format!("Terminating (since {deleted})"));
        lines.list(0, "Finalizers", elements(&metadata["finalizers"]));
    }
    for owner in elements(&metadata["ownerReferences"]).iter().filter(|o| o["controller"] == true) {
        let text = |field: &str| owner[field].as_str().unwrap_or_default().to_owned();
        lines.pair(0, "Controlled By", &format!("{}/{}", text("kind"), text("name")));
    }
    let secret = object["kind"] == "Secret";
    for (field, value) in object.as_object().into_iter().flatten() {
        match field.as_str() {
            "apiVersion" | "kind" | "metadata" => {}
            // The values of a Secret are nobody's to see in passing.
            "data" | "stringData" if secret => lines.sizes(value),
            _ => lines.field(0, field, value),
        }
    }
    lines.aligned()
}

/// Lines of a name and a value; the values of neighbours stand below each other.
#[derive(Default)]
struct Lines {
    lines: Vec<(usize, String, Option<String>)>,
}

impl Lines {
    fn pair(&mut self, depth: usize, name: &str, value: &str) {
        self.lines.push((depth, format!("{name}:"), Some(value.to_owned())));
    }

    fn head(&mut self, depth: usize, name: &str) {
        self.lines.push((depth, format!("{name}:"), None));
    }

    fn map(&mut self, depth: usize, name: &str, value: &Value) {
        let mut name = format!("{name}:");
        let pairs = value.as_object().into_iter().flatten();
        let shown = pairs.filter(|(key, _)| *key != super::apply::LAST_APPLIED);
        let mut any = false;
        for (key, value) in shown {
            let value = short(value);
            let separator = if name == "Annotations:" { ": " } else { "=" };
            any = true;
            let head = std::mem::take(&mut name);
            self.lines.push((depth, head, Some(format!("{key}{separator}{value}"))));
        }
        if !any {
            self.lines.push((depth, name, Some("<none>".to_owned())));
        }
    }

    fn list(&mut self, depth: usize, name: &str, values: &[Value]) {
        let values: Vec<String> = values.iter().map(short).collect();
        self.pair(depth, name, &values.join(", "));
    }

    fn sizes(&mut self, data: &Value) {
        use base64::Engine;
        self.head(0, "Data");
        for (key, value) in data.as_object().into_iter().flatten() {
            let engine = base64::engine::general_purpose::STANDARD;
            let bytes = engine.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
            self.pair(1, key, &format!("{} bytes", bytes.len()));
        }
    }

    fn field(&mut self, depth: usize, field: &str, value: &Value) {
        let name = in_words(field);
        match value {
            Value::Object(map) if map.is_empty() => self.pair(depth, &name, "{}"),
            // Keys of labels and data are names, not words.
            Value::Object(map) if map.values().all(Value::is_string) && is_names(field) => {
                self.head(depth, &name);
                map.iter().for_each(|(key, value)| self.text(depth + 1, key, value));
            }
            Value::Object(map) => {
                self.head(depth, &name);
                map.iter().for_each(|(key, value)| self.field(depth + 1, key, value));
            }
            Value::Array(list) if list.is_empty() => self.pair(depth, &name, "<none>"),
            Value::Array(list) if list.iter().all(|v| !v.is_object() && !v.is_array()) => {
                self.list(depth, &name, list);
            }
            Value::Array(list) => {
                self.head(depth, &name);
                for (at, element) in list.iter().enumerate() {
                    self.element(depth + 1, at, element);
                }
            }
            leaf => self.text(depth, &name, leaf),
        }
    }

    /// An element of a list goes under its name, where it has one.
    fn element(&mut self, depth: usize, at: usize, element: &Value) {
        let known = ["name", "type", "key", "path", "ip"];
        let name = known.into_iter().find_map(|key| Some((key, element[key].as_str()?)));
        let Value::Object(map) = element else { return self.text(depth, &at.to_string(), element) };
        match name {
            Some((key, name)) => {
                self.head(depth, name);
                for (field, value) in map.iter().filter(|(field, _)| *field != key) {
                    self.field(depth + 1, field, value);
                }
            }
            None => {
                self.head(depth, &format!("[{at}]"));
                map.iter().for_each(|(field, value)| self.field(depth + 1, field, value));
            }
        }
    }

    fn text(&mut self, depth: usize, name: &str, value: &Value) {
        let shown = short(value);
        if !shown.contains('\n') {
            return self.pair(depth, name, &shown);
        }
        self.head(depth, name);
        for line in shown.lines() {
            self.lines.push((depth + 1, line.to_owned(), None));
        }
    }

    fn aligned(self) -> Vec<String> {
        let mut told = Vec::with_capacity(self.lines.len());
        let mut at = 0;
        while at < self.lines.len() {
            let depth = self.lines[at].0;
            let same =
                |line: &&(usize, String, Option<String>)| line.0 == depth && line.2.is_some();
            let run = self.lines[at..].iter().take_while(same).count().max(1);
            let block = &self.lines[at..at + run];
            let width = block.iter().map(|(_, name, _)| name.chars().count()).max().unwrap_or(0);
            // The outermost names, which frame the rest, share one column.
            let width = if depth == 0 { width.max(12) } else { width };
            for (depth, name, value) in block {
                let indent = "  ".repeat(*depth);
                let line = match value {
                    Some(value) => format!("{indent}{name:<width$}  {value}"),
                    None => format!("{indent}{name}"),
                };
                told.push(line.trim_end().to_owned());
            }
            at += run;
        }
        told
    }
}

fn is_names(field: &str) -> bool {
    let lower = field.to_lowercase();
    lower.ends_with("labels")
        || matches!(
            lower.as_str(),
            "annotations"
                | "data"
                | "selector"
                | "nodeselector"
                | "limits"
                | "requests"
                | "capacity"
                | "allocatable"
                | "hard"
                | "used"
                | "binarydata"
        )
}

fn short(value: &Value) -> String {
    let text = match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}... ({} bytes in all)", &text[..end], text.len()),
        None => text,
    }
}

/// `restartPolicy` as `Restart Policy`, `podIP` as `Pod IP`.
fn in_words(field: &str) -> String {
    let chars: Vec<char> = field.chars().collect();
    let mut words = String::new();
    for (at, c) in chars.iter().enumerate() {
        if at == 0 {
            words.extend(c.to_uppercase());
            continue;
        }
        let after_small = chars[at - 1].is_lowercase() || chars[at - 1].is_ascii_digit();
        let before_small = chars.get(at + 1).is_some_and(|c| c.is_lowercase())
            && chars[at - 1].is_uppercase()
            && !(at + 2 == chars.len() && chars[at + 1] == 's');
        if c.is_uppercase() && (after_small || before_small) {
            words.push(' ');
        }
        words.push(*c);
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_named_in_words() {
        let table = [
            ("restartPolicy", "Restart Policy"),
            ("podIP", "Pod IP"),
            ("podIPs", "Pod IPs"),
            ("clusterIP", "Cluster IP"),
            ("image", "Image"),
            ("imageID", "Image ID"),
            ("hostIPCMode", "Host IPC Mode"),
        ];
        for (field, words) in table {
            assert_eq!(in_words(field), words);
        }
    }

    #[test]
    fn an_object_is_told_as_an_outline() {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "web", "tier": "a"},
                "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"restartPolicy": "Always", "nodeName": "n",
                "containers": [{"name": "c", "image": "i", "args": ["x", "y"]}]},
            "status": {"phase": "Running"},
        });
        let expected = "\
Name:         p
Namespace:    ns
Labels:       app=web
              tier=a
Annotations:  <none>
API Version:  v1
Kind:         Pod
Created:      2024-01-01T00:00:00Z
Spec:
  Containers:
    c:
      Args:   x, y
      Image:  i
  Node Name:       n
  Restart Policy:  Always
Status:
  Phase:  Running";
        assert_eq!(outline(&object).join("\n"), expected);
    }

    #[test]
    fn a_secret_keeps_its_values() {
        let secret = json!({"kind": "Secret", "metadata": {"name": "s"},
            "data": {"password": "c2VjcmV0"}});
        let told = outline(&secret).join("\n");
        assert!(told.contains("password:  6 bytes") && !told.contains("c2VjcmV0"), "{told}");
    }

    #[test]
    fn events_are_shown_in_columns_with_their_age() {
        let now: Timestamp = "2024-01-01T00:10:00Z".parse().expect("a time");
        let event = json!({"type": "Warning", "reason": "BackOff", "count": 3,
            "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": "2024-01-01T00:09:30Z",
            "source": {"component": "kubelet"}, "message": "Back-off"});
        assert_eq!(
            event_lines(&[event], now),
            [
                "Events:",
                "  Type      Reason    Age                 From      Message",
                "  ----      ------    ---                 ----      -------",
                "  Warning   BackOff   30s (x3 over 10m)   kubelet   Back-off",
            ]
        );
        assert_eq!(event_lines(&[], now), ["Events:  <none>"]);
    }
}
