//! Which form a client asks for, and which form a body has.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

use super::table::Include;
use crate::api::proto;
use crate::api::status::{ApiError, Reason};

/// What is told of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The object itself.
    Object,
    /// `PartialObjectMetadata`, or a list of them.
    Metadata,
    /// `Table`.
    Table(Include),
}

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Json,
    Yaml,
    /// Only of kinds that have a form in it.
    Protobuf,
}

impl Media {
    /// As `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => proto::MEDIA_TYPE,
        }
    }
}

impl Media {
    /// As `Content-Type` of a watch.
    pub fn stream_content_type(self) -> &'static str {
        match self {
            Self::Protobuf => proto::STREAM_MEDIA_TYPE,
            other => other.content_type(),
        }
    }
}

/// What a client accepts best among what is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    pub form: Form,
    pub media: Media,
}

/// The forms that one path can answer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Objects alone.
    Plain,
    /// Objects, tables and metadata.
    Forms,
    /// As `Forms`, but no YAML (a watch is a stream of JSON lines or of frames).
    Stream,
}

/// One element of `Accept`.
struct Clause<'a> {
    media: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let mut params: Vec<(&str, &str)> =
            parts.filter_map(|p| p.split_once('=')).map(|(k, v)| (k.trim(), v.trim())).collect();
        let quality = params.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok());
        params.retain(|(k, _)| *k != "q");
        Self { media, params, quality: quality.unwrap_or(1.0) }
    }

    fn param(&self, name: &str) -> &'a str {
        self.params.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| v)
    }

    fn media(&self, offer: Offer, protobuf: bool) -> Option<Media> {
        match self.media {
            "application/json" | "application/*" | "*/*" => Some(Media::Json),
            "application/yaml" if offer != Offer::Stream => Some(Media::Yaml),
            proto::MEDIA_TYPE if protobuf && self.param("as") != "Table" => Some(Media::Protobuf),
            // kubectl logs and some browsers; the text of a status is JSON anyway.
            "application/json;stream=watch" => Some(Media::Json),
            _ => None,
        }
    }

    fn form(&self, offer: Offer, include: Include) -> Option<Form> {
        let (kind, group, version) = (self.param("as"), self.param("g"), self.param("v"));
        let meta = group == "meta.k8s.io";
        match kind {
            "" => Some(Form::Object),
            _ if offer == Offer::Plain => None,
            "Table" if meta && matches!(version, "v1" | "v1beta1") => Some(Form::Table(include)),
            "PartialObjectMetadata" | "PartialObjectMetadataList"
                if meta && matches!(version, "v1" | "v1beta1") =>
            {
                Some(Form::Metadata)
            }
            _ => None,
        }
    }
}

/// The best of what `Accept` names. Without one, JSON. `protobuf` says whether what is told has a
/// form in it; a table never has.
///
/// # Errors
/// 406 when nothing of it is served.
pub fn accepted(
    headers: &HeaderMap,
    offer: Offer,
    include: Include,
    protobuf: bool,
) -> Result<Accepted, ApiError> {
    let texts: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let plain = Accepted { form: Form::Object, media: Media::Json };
    if texts.iter().all(|t| t.trim().is_empty()) {
        return Ok(plain);
    }
    let mut clauses: Vec<Clause<'_>> =
        texts.iter().flat_map(|t| t.split(',')).map(|t| Clause::parse(t.trim())).collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    let found = clauses.iter().filter(|c| c.quality > 0.0).find_map(|clause| {
        let media = clause.media(offer, protobuf)?;
        Some(Accepted { form: clause.form(offer, include)?, media })
    });
    found.ok_or_else(|| {
        let mut served = vec![Media::Json, Media::Yaml];
        served.extend(protobuf.then_some(Media::Protobuf));
        let served: Vec<&str> = served.into_iter().map(Media::content_type).collect();
        ApiError::new(
            Reason::NotAcceptable,
            format!("only the following media types are accepted: {}", served.join(", ")),
        )
    })
}

/// The media type of a body, without parameters, lower case. No `Content-Type` means JSON.
pub fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media.is_empty() { "application/json".into() } else { media }
}

/// 415 in Kubernetes' words.
pub fn unsupported(served: &[&str]) -> ApiError {
    ApiError::new(
        Reason::UnsupportedMediaType,
        format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            served.join(", ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask_for(accept: &str, offer: Offer, protobuf: bool) -> Option<Accepted> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().expect("a header value"));
        accepted(&headers, offer, Include::Metadata, protobuf).ok()
    }

    fn ask(accept: &str) -> Option<Accepted> {
        ask_for(accept, Offer::Forms, false)
    }

    #[test]
    fn protobuf_is_told_of_what_has_a_form_in_it_but_never_as_a_table() {
        let proto = |form| Some(Accepted { form, media: Media::Protobuf });
        let table = Form::Table(Include::Metadata);
        let json_table = Some(Accepted { form: table, media: Media::Json });
        let json = Some(Accepted { form: Form::Object, media: Media::Json });
        for (accept, expected) in [
            ("application/vnd.kubernetes.protobuf", proto(Form::Object)),
            ("application/vnd.kubernetes.protobuf,application/json", proto(Form::Object)),
            ("application/vnd.kubernetes.protobuf;q=0.5,application/json", json),
            ("*/*", json),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                proto(Form::Metadata),
            ),
            ("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1", None),
            (
                "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,\
                 application/json;as=Table;g=meta.k8s.io;v=v1",
                json_table,
            ),
        ] {
            assert_eq!(ask_for(accept, Offer::Forms, true), expected, "{accept}");
        }
        let stream = "application/vnd.kubernetes.protobuf;stream=watch";
        assert_eq!(ask_for(stream, Offer::Stream, true), proto(Form::Object));
    }

    #[test]
    fn the_first_form_that_is_served_wins() {
        let json = |form| Some(Accepted { form, media: Media::Json });
        let table = Form::Table(Include::Metadata);
        for (accept, expected) in [
            ("application/json", json(Form::Object)),
            ("*/*", json(Form::Object)),
            ("application/vnd.kubernetes.protobuf,application/json", json(Form::Object)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", json(table)),
            ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", json(Form::Object)),
            (
                "application/json;g=meta.k8s.io;v=v1;as=PartialObjectMetadataList",
                json(Form::Metadata),
            ),
            (
                "application/json;q=0.1,application/yaml",
                Some(Accepted { form: Form::Object, media: Media::Yaml }),
            ),
            ("text/html", None),
            ("application/vnd.kubernetes.protobuf", None),
        ] {
            assert_eq!(ask(accept), expected, "{accept}");
        }
    }

    #[test]
    fn no_content_type_means_json() {
        assert_eq!(content_type(&HeaderMap::new()), "application/json");
    }
}
