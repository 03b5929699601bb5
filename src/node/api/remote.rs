//! `/exec/NAMESPACE/POD/CONTAINER` and `/attach/…`: remote commands, whatever they come over and
//! whatever the container runs in.

use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use http::StatusCode;

use super::refuse;
use super::upgrade::{Pairs, Switch, flag, no_pod};
use crate::node::agent::Node;
use crate::node::io::{ContainerIo, ExecError, Streams};
use crate::stream::remote::{self, Asked, Outcome};
use crate::stream::upgrade::Purpose;

/// Exit code of a command that is not there.
const NOT_FOUND: i32 = 127;

type Place = (String, String, String);

pub async fn exec(
    State(node): State<Arc<Node>>,
    Path((namespace, pod, container)): Path<Place>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Response {
    let all = query.iter().filter(|(key, _)| key == "command");
    let command: Vec<String> = all.map(|(_, word)| word.clone()).collect();
    if command.is_empty() {
        let message = "you must specify at least one command for the container";
        return refuse(StatusCode::BAD_REQUEST, message.to_owned());
    }
    serve(&node, (namespace, pod, container), &query, request, Some(command))
}

pub async fn attach(
    State(node): State<Arc<Node>>,
    Path(place): Path<Place>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Response {
    serve(&node, place, &query, request, None)
}

/// The old form of the path, with the pod's UID.
pub async fn exec_by_uid(
    state: State<Arc<Node>>,
    Path((namespace, pod, _uid, container)): Path<(String, String, String, String)>,
    query: Query<Pairs>,
    request: Request,
) -> Response {
    exec(state, Path((namespace, pod, container)), query, request).await
}

/// As [`exec_by_uid`].
pub async fn attach_by_uid(
    state: State<Arc<Node>>,
    Path((namespace, pod, _uid, container)): Path<(String, String, String, String)>,
    query: Query<Pairs>,
    request: Request,
) -> Response {
    attach(state, Path((namespace, pod, container)), query, request).await
}

/// Which streams the query asks for.
fn asked(query: &Pairs) -> Result<Asked, String> {
    let asked = Asked {
        stdin: flag(query, "input"),
        stdout: flag(query, "output"),
        stderr: flag(query, "error"),
        tty: flag(query, "tty"),
    };
    if asked.tty && asked.stderr {
        // As the kubelet: a terminal has one output.
        return Ok(Asked { stderr: false, ..asked });
    }
    if !asked.stdin && !asked.stdout && !asked.stderr {
        return Err("you must specify at least 1 of stdin, stdout, stderr".to_owned());
    }
    Ok(asked)
}

fn serve(
    node: &Arc<Node>,
    (namespace, pod, container): Place,
    query: &Pairs,
    mut request: Request,
    command: Option<Vec<String>>,
) -> Response {
    let asked = match asked(query) {
        Ok(asked) => asked,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, message),
    };
    let Some(handle) = node.find(&namespace, &pod) else { return no_pod(&namespace, &pod) };
    let Some(io) = handle.view.lock().io.get(&container).cloned() else {
        let message = format!("container not found (\"{container}\")");
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, message);
    };
    let switch = match Switch::of(&mut request) {
        Ok(switch) => switch,
        Err(answer) => return *answer,
    };
    let protocol = match switch.choose(Purpose::RemoteCommand) {
        Ok(protocol) => protocol,
        Err(answer) => return *answer,
    };
    let shutdown = node.shutdown.clone();
    switch.to(protocol, move |connection| async move {
        let (streams, peer) = match remote::accept(connection, protocol, asked).await {
            Ok(accepted) => accepted,
            Err(error) => return tracing::debug!(pod, container, %error, "no remote command"),
        };
        let outcome = tokio::select! {
            outcome = run(&*io, command, streams, asked.tty) => outcome,
            // Dropping the command ends it.
            () = peer.gone() => return,
            () = shutdown.cancelled() => Outcome::Failed("the node is shutting down".to_owned()),
        };
        peer.finish(&outcome).await;
    })
}

/// Runs a command, or joins the container's own where there is none.
async fn run(
    io: &dyn ContainerIo,
    command: Option<Vec<String>>,
    streams: remote::Streams,
    tty: bool,
) -> Outcome {
    let remote::Streams { stdin, stdout, stderr, resizes } = streams;
    let streams = Streams { stdin, stdout, stderr, tty, resizes };
    let ended = match command {
        Some(command) => io.exec(command, streams).await,
        // How the container ended is told by its status.
        None => io.attach(streams).await.map(|_| 0),
    };
    match ended {
        Ok(code) => Outcome::of_code(code),
        Err(ExecError::NotFound(_)) => Outcome::Exit(NOT_FOUND),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_are_those_that_the_query_names() {
        let asked = |text: &str| {
            let uri: http::Uri = format!("/x?{text}").parse().expect("a URI");
            asked(&Query::<Pairs>::try_from_uri(&uri).expect("a query").0)
        };
        let some = asked("output=1&error=1&command=ls&command=-l").expect("streams");
        assert_eq!(some, Asked { stdout: true, stderr: true, ..Asked::default() });
        let tty = asked("input=1&output=true&error=1&tty=1").expect("streams");
        assert_eq!(tty, Asked { stdin: true, stdout: true, stderr: false, tty: true });
        assert!(asked("input=0&command=ls").expect_err("none").contains("at least 1 of"));
    }
}
