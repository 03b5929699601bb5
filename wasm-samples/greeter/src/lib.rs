//! A `wasi:http` handler that asks another Service and passes its answer on.
//!
//! `TARGET` is the URL of that Service, by its DNS name; by default `http://hello-http`. The path
//! of the request is appended to it.

use kit::http::{fetch, respond};
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Greeter;

wasip2::http::proxy::export!(Greeter);

impl wasip2::exports::http::incoming_handler::Guest for Greeter {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = kit::env("TARGET").unwrap_or_else(|| "http://hello-http".to_string());
        let me = kit::env("POD_NAME").unwrap_or_else(|| "a pod without a name".to_string());
        let path = request.path_with_query().unwrap_or_else(|| "/".to_string());
        let url = format!("{}{path}", target.trim_end_matches('/'));
        match fetch(&url, &[]) {
            Ok(answer) => {
                let mut body = format!("{me} was told: ").into_bytes();
                body.extend_from_slice(&answer.body);
                respond(out, answer.status, &body);
            }
            Err(error) => respond(out, 502, format!("{me}: {url}: {error}\n").as_bytes()),
        }
    }
}
