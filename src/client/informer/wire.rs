//! The answers of an API server as an informer reads them: without `managedFields`, at which nobody
//! here looks. Read into typed objects they are trees of maps that weigh more than all the rest, so
//! they are cut out of the bytes before those are read.

use std::io;
use std::ops::Range;

use bytes::BytesMut;
use futures::stream::{self, BoxStream, StreamExt};
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use kube::core::{Status, WatchEvent};
use memchr::{memchr, memmem};
use serde::de::DeserializeOwned;

/// The largest page of a list that is read.
const PAGE_BYTES_MAX: usize = 512 << 20;
/// The longest event: objects are much smaller.
const EVENT_BYTES_MAX: usize = 64 << 20;
const NAME: &[u8] = br#""managedFields":["#;

/// What a watch tells.
pub(super) type Events<K> = BoxStream<'static, Result<WatchEvent<K>, kube::Error>>;

/// Asks for one page of a list.
///
/// # Errors
/// The server's Status, what the connection says, or that the answer is no such list.
pub(super) async fn list<T: DeserializeOwned>(
    client: &kube::Client,
    request: Request<Vec<u8>>,
) -> Result<T, kube::Error> {
    let body = send(client, request).await?.into_body();
    let page = Limited::new(body, PAGE_BYTES_MAX).collect().await.map_err(kube::Error::Service)?;
    let mut page = Vec::from(page.to_bytes());
    let length = cut_managed_fields(&mut page);
    serde_json::from_slice(&page[..length]).map_err(kube::Error::SerdeError)
}

/// Begins a watch. Its events end where the server ends them.
///
/// # Errors
/// The server's Status, or what the connection says.
pub(super) async fn events<K>(
    client: &kube::Client,
    mut request: Request<Vec<u8>>,
) -> Result<Events<K>, kube::Error>
where
    K: DeserializeOwned + Send + 'static,
{
    // A watch compressed piece by piece is not what decompressors expect.
    let plain = HeaderValue::from_static("identity");
    request.headers_mut().insert(header::ACCEPT_ENCODING, plain);
    let lines = Lines { body: send(client, request).await?.into_body(), read: BytesMut::new() };
    Ok(stream::unfold(lines, |mut lines| async {
        let event = match lines.next().await? {
            Ok(mut line) => {
                let length = cut_managed_fields(&mut line);
                serde_json::from_slice(&line[..length]).map_err(kube::Error::SerdeError)
            }
            Err(error) => Err(kube::Error::ReadEvents(error)),
        };
        Some((event, lines))
    })
    .boxed())
}

async fn send(
    client: &kube::Client,
    request: Request<Vec<u8>>,
) -> Result<Response<Body>, kube::Error> {
    let answer = client.send(request.map(Body::from)).await?;
    let code = answer.status();
    if code.is_success() {
        return Ok(answer);
    }
    let body = Limited::new(answer.into_body(), EVENT_BYTES_MAX).collect().await;
    let body = body.map_err(kube::Error::Service)?.to_bytes();
    let status = serde_json::from_slice::<Status>(&body).unwrap_or_else(|_| {
        Status::failure(String::from_utf8_lossy(&body).trim(), "").with_code(code.as_u16())
    });
    Err(kube::Error::Api(status.boxed()))
}

/// The lines of a body. What stands after the last newline was cut off and is no line.
struct Lines {
    body: Body,
    read: BytesMut,
}

impl Lines {
    async fn next(&mut self) -> Option<io::Result<BytesMut>> {
        let mut searched = 0;
        loop {
            if let Some(end) = memchr(b'\n', &self.read[searched..]) {
                return Some(Ok(self.read.split_to(searched + end + 1)));
            }
            searched = self.read.len();
            if searched > EVENT_BYTES_MAX {
                return Some(Err(io::Error::other("an event is longer than any object can be")));
            }
            match self.body.frame().await? {
                Ok(frame) => self.read.extend_from_slice(frame.data_ref().map_or(&[], |d| d)),
                Err(error) => return Some(Err(io::Error::other(error))),
            }
        }
    }
}

/// Moves everything but the `managedFields` of all objects to the front; answers how long that is.
///
/// The name cannot be found inside a string, where its quotes would be escaped. What is not
/// balanced is left for the reader of the JSON to refuse.
fn cut_managed_fields(json: &mut [u8]) -> usize {
    let finder = memmem::Finder::new(NAME);
    let (mut kept, mut at) = (0, 0);
    loop {
        let found = finder.find(&json[at..]).and_then(|found| field(json, at + found));
        let end = found.as_ref().map_or(json.len(), |field| field.start);
        json.copy_within(at..end, kept);
        kept += end - at;
        match found {
            Some(field) => at = field.end,
            None => return kept,
        }
    }
}

/// The range of the field whose name begins at `start`, with one of the commas beside it.
fn field(json: &[u8], start: usize) -> Option<Range<usize>> {
    let (mut depth, mut in_string, mut escaped) = (1u32, false, false);
    let mut end = start + NAME.len();
    while depth > 0 {
        let byte = *json.get(end)?;
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
        end += 1;
    }
    match (json.get(end), json[..start].last()) {
        (Some(b','), _) => Some(start..end + 1),
        (_, Some(b',')) => Some(start - 1..end),
        _ => Some(start..end),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cut(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let length = cut_managed_fields(&mut bytes);
        String::from_utf8(bytes[..length].to_vec()).expect("text")
    }

    #[test]
    fn managed_fields_are_cut_wherever_they_stand() {
        for (whole, kept) in [
            (r#"{"a":1,"managedFields":[{"f":{}},{"s":"]}\"["}],"z":2}"#, r#"{"a":1,"z":2}"#),
            (r#"{"managedFields":[],"z":2}"#, r#"{"z":2}"#),
            (r#"{"a":1,"managedFields":[[]]}"#, r#"{"a":1}"#),
            (r#"{"managedFields":[1]}"#, "{}"),
            (r#"[{"managedFields":[1]},{"managedFields":[2],"a":"ä"}]"#, r#"[{},{"a":"ä"}]"#),
            (r#"{"a":"\"managedFields\":[1]"}"#, r#"{"a":"\"managedFields\":[1]"}"#),
            (r#"{"managedFields":null}"#, r#"{"managedFields":null}"#),
            (r#"{"a":1,"managedFields":[{"f""#, r#"{"a":1,"managedFields":[{"f""#),
        ] {
            assert_eq!(cut(whole), kept);
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_else_is_cut(
            text in "\\PC*",
            fields in proptest::collection::vec("[\\[\\]{}\",\\\\a]{0,8}", 0..4),
        ) {
            let bare = json!({"metadata": {"name": text, "uid": "1"}, "status": {"text": text}});
            let mut whole = bare.clone();
            let fields: Vec<Value> = fields.iter().map(|f| json!({"f": {f: [f]}})).collect();
            whole["metadata"]["managedFields"] = json!(fields);
            let read: Value = serde_json::from_str(&cut(&whole.to_string())).expect("JSON");
            proptest::prop_assert_eq!(read, bare);
        }

        #[test]
        fn no_bytes_are_too_odd(text in "[\\[\\]{}\",\\\\:]{0,40}") {
            let odd = format!("{text}\"managedFields\":[{text}");
            proptest::prop_assert!(cut(&odd).len() <= odd.len());
        }
    }
}
