//! A `wasi:http` handler that says who answered and what it was asked.
//!
//! | path | answer |
//! |---|---|
//! | `/env` | the environment, a line `NAME=value` each |
//! | `/headers` | the request's headers, a line `name: value` each |
//! | `/echo` | the request's body |
//! | `/status/NNN` | that status |
//! | `/exit` | traps, so that one sees what becomes of a broken request |
//! | any other | `Hello from POD_NAME`, with the path where it is not `/` |

use kit::http::{respond, respond_with};
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Hello;

wasip2::http::proxy::export!(Hello);

impl wasip2::exports::http::incoming_handler::Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let route = path.split('?').next().unwrap_or("/");
        match route {
            "/env" => {
                let mut text = String::new();
                for (name, value) in wasip2::cli::environment::get_environment() {
                    text += &format!("{name}={value}\n");
                }
                respond(out, 200, text.as_bytes());
            }
            "/headers" => {
                let mut text = String::new();
                for (name, value) in request.headers().entries() {
                    text += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
                }
                respond(out, 200, text.as_bytes());
            }
            "/echo" => respond_with(out, 200, |sink| kit::http::copy(&request, sink)),
            "/exit" => panic!("asked to break"),
            _ => match route.strip_prefix("/status/").and_then(|code| code.parse().ok()) {
                Some(code) => respond(out, code, format!("status {code}\n").as_bytes()),
                None => respond(out, 200, greeting(&path).as_bytes()),
            },
        }
    }
}

fn greeting(path: &str) -> String {
    let pod = kit::env("POD_NAME").unwrap_or_else(|| "a pod without a name".to_string());
    match path {
        "/" | "" => format!("Hello from {pod}\n"),
        path => format!("Hello from {pod}, you asked for {path}\n"),
    }
}
