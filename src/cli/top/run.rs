//! The loop of the view: keys and changes in, drawings and requests to the API out.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures::{AsyncBufReadExt, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, Client};
use ratatui::crossterm::event;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Workers;
use super::feed::Feed;
use super::screen::{Action, Screen};
use super::view::{self, Look};
use super::{plain, symbols};
use crate::base::shutdown::Shutdown;
use crate::client::{Key, rest};

/// How often the picture is looked at again.
const FRAME: Duration = Duration::from_millis(250);
/// How often the keyboard's thread looks whether it should end.
const KEYS: Duration = Duration::from_millis(100);
/// How long the last word stays in the place of the keys.
const SAID_FRAMES: u32 = 24;
/// Keys and log lines that wait to be taken.
const QUEUE: usize = 256;
/// How much of a log is shown at first.
const LOG_TAIL: i64 = 200;

/// Something that the loop reacts to.
enum Input {
    Terminal(event::Event),
    Log(Key, String),
    Said(String),
}

/// The view in the terminal, until `q` or `shutdown`.
///
/// # Errors
/// The terminal cannot be used, or the demo's server has ended.
pub async fn live(
    client: Client,
    feed: &Feed,
    workers: Option<Arc<dyn Workers>>,
    hint: &str,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    // Restores the terminal on a panic as well.
    let mut terminal = ratatui::try_init().context("cannot use this terminal")?;
    let stop = Arc::new(AtomicBool::new(false));
    let (inputs, taken) = mpsc::channel(QUEUE);
    let keyboard = keyboard(inputs.clone(), Arc::clone(&stop));
    let look = Look {
        symbols: symbols::of_environment(),
        colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    };
    let mut live = Live { client, workers, inputs, following: None };
    let mut screen = Screen::new(feed.picture(), live.workers.is_some());
    hint.clone_into(&mut screen.hint);
    let ended = live.run(&mut terminal, feed, screen, look, taken, shutdown).await;
    stop.store(true, Ordering::Relaxed);
    live.stop_following();
    ratatui::restore();
    let _ = keyboard.join();
    ended
}

/// A thread that reads the terminal, since that has no other way than to wait.
fn keyboard(inputs: mpsc::Sender<Input>, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            match event::poll(KEYS) {
                Ok(false) => {}
                Ok(true) => match event::read() {
                    // A key that finds the queue full is lost, rather than acted on much later.
                    Ok(event) => drop(inputs.try_send(Input::Terminal(event))),
                    Err(_) => return,
                },
                Err(_) => return,
            }
        }
    })
}

struct Live {
    client: Client,
    workers: Option<Arc<dyn Workers>>,
    inputs: mpsc::Sender<Input>,
    following: Option<AbortHandle>,
}

impl Live {
    async fn run(
        &mut self,
        terminal: &mut ratatui::DefaultTerminal,
        feed: &Feed,
        mut screen: Screen,
        look: Look,
        mut taken: mpsc::Receiver<Input>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(FRAME);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut said_for = 0;
        loop {
            terminal.draw(|frame| view::draw(frame, &screen, look))?;
            let input = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => None,
                input = taken.recv() => input,
            };
            let Some(input) = input else {
                screen.show(feed.picture());
                said_for += 1;
                if let Some(workers) = &self.workers
                    && let Some(told) = workers.ended()?.pop()
                {
                    screen.said = told;
                    said_for = 0;
                }
                if said_for > SAID_FRAMES {
                    screen.said.clear();
                }
                continue;
            };
            // All that waits is taken before the next drawing.
            for input in std::iter::once(input).chain(std::iter::from_fn(|| taken.try_recv().ok()))
            {
                said_for = 0;
                match input {
                    Input::Terminal(event::Event::Key(key)) => match screen.press(key) {
                        Some(Action::Quit) => return Ok(()),
                        Some(action) => self.act(action, &mut screen),
                        None => {}
                    },
                    Input::Terminal(_) => {}
                    Input::Log(pod, line) => {
                        if screen.logs.as_ref().is_some_and(|pane| pane.pod == pod) {
                            screen.log_line(line);
                        }
                    }
                    Input::Said(text) => screen.said = text,
                }
            }
        }
    }

    /// Does what a key asked for, without waiting for it.
    fn act(&mut self, action: Action, screen: &mut Screen) {
        match action {
            Action::Quit => {}
            Action::StopFollowing => self.stop_following(),
            Action::Follow { pod, container } => {
                self.stop_following();
                let following = follow(self.client.clone(), pod, container, self.inputs.clone());
                self.following = Some(tokio::spawn(following).abort_handle());
            }
            Action::Scale { deployment, replicas } => {
                screen.said = format!("{}: {replicas} replicas", deployment.name);
                let (client, inputs) = (self.client.clone(), self.inputs.clone());
                tokio::spawn(async move {
                    if let Err(error) = scale(&client, &deployment, replicas).await {
                        let told = format!("{} is not scaled: {error}", deployment.name);
                        let _ = inputs.send(Input::Said(told)).await;
                    }
                });
            }
            Action::Kill { node } => {
                let Some(workers) = self.workers.clone() else { return };
                screen.said = format!("{node} is killed: its pods move in a few seconds");
                let inputs = self.inputs.clone();
                tokio::spawn(async move {
                    if let Err(error) = workers.kill(&node).await {
                        let _ = inputs.send(Input::Said(format!("{error:#}"))).await;
                    }
                });
            }
            Action::Restart { node } => {
                let Some(workers) = &self.workers else { return };
                screen.said = match workers.restart(&node) {
                    Ok(()) => format!("{node} is started"),
                    Err(error) => format!("{error:#}"),
                };
            }
        }
    }

    fn stop_following(&mut self) {
        if let Some(following) = self.following.take() {
            following.abort();
        }
    }
}

async fn scale(client: &Client, deployment: &Key, replicas: i32) -> Result<(), kube::Error> {
    let path = rest::object::<Deployment>(&deployment.namespace, &deployment.name);
    let body = json!({"spec": {"replicas": replicas}});
    let path = format!("{path}/scale");
    rest::patch::<rest::Ignored>(client, &path, rest::Patch::Merge, &body).await.map(|_| ())
}

/// Sends the lines of a pod's log until it ends.
async fn follow(client: Client, pod: Key, container: String, inputs: mpsc::Sender<Input>) {
    let pods: Api<Pod> = Api::namespaced(client, &pod.namespace);
    let params = LogParams {
        follow: true,
        container: Some(container).filter(|name| !name.is_empty()),
        tail_lines: Some(LOG_TAIL),
        ..LogParams::default()
    };
    let send = |line: String| inputs.send(Input::Log(pod.clone(), line));
    match pods.log_stream(&pod.name, &params).await {
        Ok(stream) => {
            let mut lines = stream.lines();
            while let Some(line) = lines.next().await {
                let ended = line.is_err();
                let text = line.unwrap_or_else(|error| format!("(the log broke off: {error})"));
                if send(text).await.is_err() || ended {
                    return;
                }
            }
            let _ = send("(the log has ended)".to_owned()).await;
        }
        Err(error) => drop(send(format!("(no log: {error})")).await),
    }
}

/// The view as lines, until `shutdown`.
///
/// # Errors
/// The output is closed, or the demo's server has ended.
pub async fn lines(
    feed: &Feed,
    workers: Option<Arc<dyn Workers>>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let nothing = super::model::Observed::nothing();
    let mut before = super::model::Picture::of(nothing);
    let mut ticks = tokio::time::interval(FRAME);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let ended = workers.as_ref().map_or(Ok(Vec::new()), |workers| workers.ended())?;
        let after = feed.picture();
        let mut out = std::io::stdout().lock();
        for line in ended.into_iter().chain(plain::changes(&before, &after)) {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        before = after;
    }
}
