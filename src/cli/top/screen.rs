//! What is on the screen beside the picture itself: where the cursor is, which log is open, what
//! was last said. Keys change it; what they ask of the cluster comes out as an [`Action`]. Pure.
//!
//! There is one cursor, on a pod or on a node without pods. It moves through the boxes; the pod's
//! Deployment and the node are what `+`, `-` and `k` act on, so that one sees what one does.
//! `[` and `]` choose a Deployment directly, for one that has no pods.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::facts::PodFacts;
use super::model::Picture;
use crate::client::Key;

/// Lines kept of the log that is followed.
const LOG_LINES: usize = 1000;
/// The most replicas that `+` asks for.
const REPLICAS_MAX: i32 = 200;

/// What a key asks of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Scale { deployment: Key, replicas: i32 },
    Kill { node: String },
    Restart { node: String },
    Follow { pod: Key, container: String },
    StopFollowing,
    Quit,
}

/// The log of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPane {
    pub pod: Key,
    pub lines: VecDeque<String>,
}

/// What the cursor is on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor {
    pub node: Option<String>,
    pub pod: Option<Key>,
    pub deployment: Option<Key>,
}

/// The state of the screen.
#[derive(Debug, Clone, PartialEq)]
pub struct Screen {
    pub picture: Picture,
    pub cursor: Cursor,
    pub logs: Option<LogPane>,
    pub help: bool,
    /// The last thing that was done or went wrong.
    pub said: String,
    /// How to reach the cluster, below the title; may be empty.
    pub hint: String,
    /// Whether this process may kill and start workers.
    pub workers: bool,
}

impl Screen {
    pub fn new(picture: Picture, workers: bool) -> Self {
        let mut screen = Self {
            picture,
            cursor: Cursor::default(),
            logs: None,
            help: false,
            said: String::new(),
            hint: String::new(),
            workers,
        };
        screen.settle();
        screen
    }

    /// Shows a newer picture.
    pub fn show(&mut self, picture: Picture) {
        self.picture = picture;
        self.settle();
    }

    /// A line of the log that is followed.
    pub fn log_line(&mut self, line: String) {
        if let Some(pane) = &mut self.logs {
            if pane.lines.len() == LOG_LINES {
                pane.lines.pop_front();
            }
            pane.lines.push_back(line);
        }
    }

    /// What `key` does.
    pub fn press(&mut self, key: KeyEvent) -> Option<Action> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Some(Action::Quit);
        }
        if self.help {
            self.help = false;
            return None;
        }
        match key.code {
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Esc => return self.logs.take().map(|_| Action::StopFollowing),
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Up => self.step(-1),
            KeyCode::Down => self.step(1),
            KeyCode::Left => self.step_node(-1),
            KeyCode::Right | KeyCode::Tab => self.step_node(1),
            KeyCode::Char('[') => self.step_deployment(-1),
            KeyCode::Char(']') => self.step_deployment(1),
            KeyCode::Char('+' | '=') => return self.scale(1),
            KeyCode::Char('-' | '_') => return self.scale(-1),
            KeyCode::Char('l') => return self.follow(),
            KeyCode::Char('k') => return self.on_worker(|node| Action::Kill { node }),
            KeyCode::Char('r') => return self.on_worker(|node| Action::Restart { node }),
            _ => {}
        }
        None
    }

    fn scale(&mut self, by: i32) -> Option<Action> {
        let Some(key) = self.cursor.deployment.clone() else {
            "there is no Deployment to scale".clone_into(&mut self.said);
            return None;
        };
        let row = self.picture.deployments.iter_mut().find(|d| d.key == key)?;
        let replicas = (row.wanted + by).clamp(0, REPLICAS_MAX);
        // So that pressing twice before the answer is there counts twice.
        row.wanted = replicas;
        Some(Action::Scale { deployment: key, replicas })
    }

    fn follow(&mut self) -> Option<Action> {
        if self.logs.take().is_some() {
            return Some(Action::StopFollowing);
        }
        let pod = self.picture.pod(self.cursor.pod.as_ref()?)?;
        let (key, container) = (pod.key.clone(), pod.container.clone());
        self.logs = Some(LogPane { pod: key.clone(), lines: VecDeque::new() });
        Some(Action::Follow { pod: key, container })
    }

    fn on_worker(&mut self, action: impl Fn(String) -> Action) -> Option<Action> {
        if !self.workers {
            "only the demo starts and kills its own workers".clone_into(&mut self.said);
            return None;
        }
        self.cursor.node.clone().map(action)
    }

    /// The boxes in their order: a node's name and its pods; at last the pods without a node.
    fn boxes(&self) -> Vec<(Option<&str>, &[PodFacts])> {
        let nodes = self.picture.nodes.iter();
        let mut boxes: Vec<(Option<&str>, &[PodFacts])> =
            nodes.map(|n| (Some(n.node.name.as_str()), n.pods.as_slice())).collect();
        if !self.picture.unplaced.is_empty() {
            boxes.push((None, &self.picture.unplaced));
        }
        boxes
    }

    /// Box and place in it of the cursor.
    fn at(&self) -> (usize, usize) {
        let boxes = self.boxes();
        if let Some(pod) = &self.cursor.pod {
            for (b, (_, pods)) in boxes.iter().enumerate() {
                if let Some(p) = pods.iter().position(|p| p.key == *pod) {
                    return (b, p);
                }
            }
        }
        if self.cursor == Cursor::default() {
            return (0, 0);
        }
        let node = boxes.iter().position(|(name, _)| *name == self.cursor.node.as_deref());
        (node.unwrap_or(0), 0)
    }

    fn put(&mut self, in_box: usize, place: usize) {
        let boxes = self.boxes();
        let Some((node, pods)) = boxes.get(in_box) else { return };
        let pod = pods.get(place.min(pods.len().saturating_sub(1)));
        let (node, pod) = (node.map(str::to_owned), pod.cloned());
        if let Some(deployment) = pod.as_ref().and_then(|pod| pod.deployment.clone()) {
            self.cursor.deployment = Some(deployment);
        }
        self.cursor.node = node;
        self.cursor.pod = pod.map(|pod| pod.key);
    }

    /// Up and down: through the pods of a box, and on into the next box.
    fn step(&mut self, by: isize) {
        let places: Vec<(usize, usize)> = self
            .boxes()
            .iter()
            .enumerate()
            .flat_map(|(b, (_, pods))| (0..pods.len().max(1)).map(move |p| (b, p)))
            .collect();
        let at = places.iter().position(|place| *place == self.at()).unwrap_or(0);
        let next = at.saturating_add_signed(by).min(places.len().saturating_sub(1));
        if let Some((b, p)) = places.get(next) {
            self.put(*b, *p);
        }
    }

    fn step_node(&mut self, by: isize) {
        let (b, p) = self.at();
        let count = self.boxes().len().max(1);
        self.put((b + count).saturating_add_signed(by) % count, p);
    }

    fn step_deployment(&mut self, by: isize) {
        let deployments = &self.picture.deployments;
        if deployments.is_empty() {
            return;
        }
        let at = deployments.iter().position(|d| Some(&d.key) == self.cursor.deployment.as_ref());
        let count = deployments.len();
        let next = at.map_or(0, |at| (at + count).saturating_add_signed(by) % count);
        self.cursor.deployment = Some(deployments[next].key.clone());
    }

    /// Keeps the cursor on something that is there: the same pod wherever it is now, else the same
    /// node, else the first box.
    fn settle(&mut self) {
        let gone = self.cursor.pod.as_ref().is_none_or(|pod| self.picture.pod(pod).is_none());
        let deployment = self.cursor.deployment.clone();
        let (b, p) = self.at();
        self.put(b, p);
        // What is scaled must not change because some pod has gone.
        if let Some(before) = deployment
            && gone
            && self.picture.deployments.iter().any(|d| d.key == before)
        {
            self.cursor.deployment = Some(before);
        }
        let known = |key: &Key| self.picture.deployments.iter().any(|d| d.key == *key);
        if !self.cursor.deployment.as_ref().is_some_and(known) {
            self.cursor.deployment = self.picture.deployments.first().map(|d| d.key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::samples;

    fn press(screen: &mut Screen, code: KeyCode) -> Option<Action> {
        screen.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn pod(screen: &Screen) -> &str {
        screen.cursor.pod.as_ref().map(|pod| pod.name.as_str()).unwrap_or_default()
    }

    #[test]
    fn the_cursor_walks_through_pods_and_nodes() {
        let mut screen = Screen::new(samples::picture(), true);
        assert_eq!(pod(&screen), "batch");
        press(&mut screen, KeyCode::Down);
        press(&mut screen, KeyCode::Down);
        assert_eq!(pod(&screen), "greeter-5f9-q2x");
        press(&mut screen, KeyCode::Right);
        assert_eq!(screen.cursor.node.as_deref(), Some("demo-worker-2"));
        for _ in 0..20 {
            press(&mut screen, KeyCode::Down);
        }
        assert_eq!(screen.cursor.node, None);
        press(&mut screen, KeyCode::Right);
        assert_eq!(screen.cursor.node.as_deref(), Some("demo-worker-1"));
    }

    #[test]
    fn scaling_acts_on_the_deployment_of_the_pod_under_the_cursor() {
        let mut screen = Screen::new(samples::picture(), true);
        press(&mut screen, KeyCode::Down);
        press(&mut screen, KeyCode::Down);
        let scale =
            |replicas| Some(Action::Scale { deployment: Key::new("default", "greeter"), replicas });
        assert_eq!(press(&mut screen, KeyCode::Char('+')), scale(3));
        assert_eq!(press(&mut screen, KeyCode::Char('+')), scale(4));
        assert_eq!(press(&mut screen, KeyCode::Char('-')), scale(3));
    }

    #[test]
    fn the_deployment_stays_when_its_last_pod_goes() {
        let mut screen = Screen::new(samples::picture(), true);
        press(&mut screen, KeyCode::Down);
        press(&mut screen, KeyCode::Down);
        let mut observed = samples::observed();
        observed.pods.retain(|pod| !pod.key.name.starts_with("greeter"));
        screen.show(Picture::of(observed));
        assert_eq!(screen.cursor.deployment, Some(Key::new("default", "greeter")));
    }

    #[test]
    fn workers_are_killed_only_by_who_started_them() {
        let mut screen = Screen::new(samples::picture(), false);
        assert_eq!(press(&mut screen, KeyCode::Char('k')), None);
        assert!(screen.said.contains("only the demo"));
        screen.workers = true;
        let kill = Action::Kill { node: "demo-worker-1".to_owned() };
        assert_eq!(press(&mut screen, KeyCode::Char('k')), Some(kill));
    }

    #[test]
    fn a_log_is_opened_and_closed_with_the_same_key() {
        let mut screen = Screen::new(samples::picture(), true);
        let follow = press(&mut screen, KeyCode::Char('l'));
        assert!(matches!(follow, Some(Action::Follow { .. })), "{follow:?}");
        for n in 0..LOG_LINES + 1 {
            screen.log_line(n.to_string());
        }
        let first = screen.logs.as_ref().and_then(|pane| pane.lines.front());
        assert_eq!(first.map(String::as_str), Some("1"));
        assert_eq!(press(&mut screen, KeyCode::Char('l')), Some(Action::StopFollowing));
        assert_eq!(screen.logs, None);
    }

    #[test]
    fn an_empty_cluster_takes_every_key() {
        let mut observed = samples::observed();
        observed.nodes.clear();
        observed.pods.clear();
        observed.deployments.clear();
        let mut screen = Screen::new(Picture::of(observed), true);
        for code in [KeyCode::Up, KeyCode::Down, KeyCode::Left, KeyCode::Right, KeyCode::Tab] {
            assert_eq!(press(&mut screen, code), None);
        }
        for key in "+-lkr[]".chars() {
            assert_eq!(press(&mut screen, KeyCode::Char(key)), None);
        }
    }
}
