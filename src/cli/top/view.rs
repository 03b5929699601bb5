//! Draws a [`Screen`]. Pure: the same screen gives the same cells.
//!
//! ```text
//! title ─ nodes as boxes with their pods ─ Deployments │ Services ─ events or a log ─ keys
//! ```
//!
//! What does not fit is left out from the bottom up: events first, then the tables, then pods
//! (the last line of a box then says how many).

use std::fmt::Write as _;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::facts::{NodeState, PodFacts, PodState};
use super::model::{EventRow, NodeBox};
use super::screen::Screen;
use super::symbols::Symbols;

/// Below this nothing can be told.
const SMALLEST: (u16, u16) = (24, 6);
/// Below this, there is no line for the hint.
const HINT_HEIGHT: u16 = 16;
/// A box of a node is at least this wide.
const BOX_WIDTH: u16 = 38;
/// Tables side by side need this much.
const SIDE_BY_SIDE: u16 = 84;

/// How things look.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub symbols: &'static Symbols,
    /// Without (`NO_COLOR`), symbols and words tell alone.
    pub colours: bool,
}

impl Look {
    fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn dim(self) -> Style {
        if self.colours { Style::new().fg(Color::DarkGray) } else { Style::new() }
    }

    fn block(self, title: Line<'_>) -> Block<'_> {
        Block::bordered().border_set(self.symbols.border).border_style(self.dim()).title(title)
    }

    fn of_pod(self, state: PodState) -> (&'static str, Style) {
        let symbols = self.symbols;
        let (symbol, colour) = match state {
            PodState::Pending => (symbols.pending, Color::Yellow),
            PodState::Starting => (symbols.starting, Color::Yellow),
            PodState::Ready => (symbols.ready, Color::Green),
            PodState::NotReady => (symbols.not_ready, Color::Magenta),
            PodState::Terminating => (symbols.terminating, Color::DarkGray),
            PodState::Succeeded => (symbols.succeeded, Color::Blue),
            PodState::Failed => (symbols.failed, Color::Red),
        };
        (symbol, self.colour(colour))
    }
}

/// Draws `screen` into the whole of the frame.
pub fn draw(frame: &mut Frame, screen: &Screen, look: Look) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        frame.render_widget(Paragraph::new("too small; q quits"), area);
        return;
    }
    let tables_height = tables_height(screen, area.width);
    let nodes_height = nodes_height(screen, area.width);
    let title_height = if screen.hint.is_empty() || area.height < HINT_HEIGHT { 1 } else { 2 };
    let body = area.height - title_height - 1;
    // Nodes get what they need, but leave the tables and a few events their share.
    let nodes_height = nodes_height.min((body * 3 / 5).max(4)).min(body);
    let tables_height = tables_height.min(body - nodes_height);
    let rows = Layout::vertical([
        Constraint::Length(title_height),
        Constraint::Length(nodes_height),
        Constraint::Length(tables_height),
        Constraint::Min(0),
        Constraint::Length(1),
    ]);
    let [title, nodes, tables, events, keys] = rows.areas(area);
    draw_title(frame, title, screen, look);
    draw_nodes(frame, nodes, screen, look);
    draw_tables(frame, tables, screen, look);
    match &screen.logs {
        // A log is what one looks at now: it takes the tables' room too.
        Some(_) => draw_log(frame, tables.union(events), screen, look),
        None => draw_events(frame, events, &screen.picture.events, look),
    }
    draw_keys(frame, keys, screen, look);
    if screen.help {
        draw_help(frame, area, screen, look);
    }
}

fn draw_title(frame: &mut Frame, area: Rect, screen: &Screen, look: Look) {
    let (ready_nodes, nodes) = screen.picture.ready_nodes();
    let (well, pods) = screen.picture.well_pods();
    let rate = screen.picture.rate();
    let line = Line::from(vec![
        Span::styled(" coracle ", Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED)),
        Span::raw(format!(" nodes {ready_nodes}/{nodes}")),
        Span::styled(look.symbols.separator, look.dim()),
        Span::raw(format!("pods {well}/{pods}")),
        Span::styled(look.symbols.separator, look.dim()),
        Span::raw(format!("{rate:.0} requests/s")),
    ]);
    let hint = Line::styled(format!(" {}", screen.hint), look.dim());
    frame.render_widget(Paragraph::new(vec![line, hint]), area);
}

/// How many boxes fit side by side.
fn columns(boxes: usize, width: u16) -> usize {
    usize::from((width / BOX_WIDTH).max(1)).min(boxes.max(1))
}

fn box_count(screen: &Screen) -> usize {
    screen.picture.nodes.len() + usize::from(!screen.picture.unplaced.is_empty())
}

/// The heights of the rows of boxes, so that all pods are shown.
fn row_heights(screen: &Screen, width: u16) -> Vec<u16> {
    let mut lens: Vec<usize> = screen.picture.nodes.iter().map(|n| n.pods.len()).collect();
    if !screen.picture.unplaced.is_empty() {
        lens.push(screen.picture.unplaced.len());
    }
    let rows = lens.chunks(columns(lens.len(), width));
    let heights = rows.map(|row| row.iter().max().copied().unwrap_or(0).max(1) + 2);
    heights.map(|height| u16::try_from(height).unwrap_or(u16::MAX)).collect()
}

fn nodes_height(screen: &Screen, width: u16) -> u16 {
    row_heights(screen, width).into_iter().fold(0, u16::saturating_add).max(3)
}

fn draw_nodes(frame: &mut Frame, area: Rect, screen: &Screen, look: Look) {
    let count = box_count(screen);
    if count == 0 {
        let block = look.block(Line::raw(" nodes "));
        let none = Paragraph::new("no node has joined yet").block(block);
        frame.render_widget(none, area);
        return;
    }
    let columns = columns(count, area.width);
    let rows = count.div_ceil(columns);
    let fitting = usize::from(area.height / 3).clamp(1, rows);
    let heights = row_heights(screen, area.width);
    let constraints = match nodes_height(screen, area.width) <= area.height {
        true => heights.into_iter().map(Constraint::Length).collect(),
        false => vec![Constraint::Fill(1); fitting],
    };
    let lines = Layout::vertical(constraints).split(area);
    // The row of the cursor is among those that are shown.
    let first = cursor_box(screen) / columns;
    let first = (first + 1).saturating_sub(fitting);
    for (line, row) in lines.iter().zip(first..rows) {
        let cells = Layout::horizontal(vec![Constraint::Fill(1); columns]).split(*line);
        for (cell, at) in cells.iter().zip(row * columns..count) {
            match screen.picture.nodes.get(at) {
                Some(node) => draw_node(frame, *cell, node, screen, look),
                None => draw_unplaced(frame, *cell, screen, look),
            }
        }
    }
}

fn cursor_box(screen: &Screen) -> usize {
    let nodes = &screen.picture.nodes;
    let of = |name: &String| nodes.iter().position(|n| n.node.name == *name);
    screen.cursor.node.as_ref().and_then(of).unwrap_or(match screen.cursor.pod {
        Some(_) => nodes.len(),
        None => 0,
    })
}

fn draw_node(frame: &mut Frame, area: Rect, node: &NodeBox, screen: &Screen, look: Look) {
    let facts = &node.node;
    let (symbol, word, colour) = match facts.state {
        NodeState::Ready if facts.cordoned => (look.symbols.not_ready, "cordoned", Color::Yellow),
        NodeState::Ready => (look.symbols.ready, "Ready", Color::Green),
        NodeState::NotReady => (look.symbols.not_ready, "NotReady", Color::Magenta),
        NodeState::Unknown => (look.symbols.failed, "down", Color::Red),
    };
    let selected = screen.cursor.node.as_ref() == Some(&facts.name);
    let name_style =
        if selected { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
    let title = Line::from(vec![
        Span::raw(" "),
        Span::styled(format!("{symbol} {word} "), look.colour(colour)),
        Span::styled(format!("{} ", facts.name), name_style),
        Span::styled(format!("{} ", facts.address), look.dim()),
    ]);
    let mut block = look.block(title);
    if selected {
        block = block.border_style(look.colour(Color::Cyan));
    }
    draw_pods(frame, area, block, &node.pods, screen, look);
}

fn draw_unplaced(frame: &mut Frame, area: Rect, screen: &Screen, look: Look) {
    let block = look.block(Line::styled(" no node ", look.colour(Color::Yellow)));
    draw_pods(frame, area, block, &screen.picture.unplaced, screen, look);
}

fn draw_pods(
    frame: &mut Frame,
    area: Rect,
    block: Block,
    pods: &[PodFacts],
    screen: &Screen,
    look: Look,
) {
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let height = usize::from(inner.height);
    let shown = if pods.len() > height { height.saturating_sub(1) } else { pods.len() };
    let cursor = pods.iter().position(|pod| Some(&pod.key) == screen.cursor.pod.as_ref());
    let first = cursor.map_or(0, |at| (at + 1).saturating_sub(shown));
    let width = usize::from(inner.width);
    let mut lines: Vec<Line> = Vec::new();
    for pod in pods.iter().skip(first).take(shown) {
        lines.push(pod_line(pod, width, screen, look));
    }
    if shown < pods.len() {
        let rest = format!("  and {} more", pods.len() - shown);
        lines.push(Line::styled(rest, look.dim()));
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

fn pod_line<'a>(pod: &'a PodFacts, width: usize, screen: &Screen, look: Look) -> Line<'a> {
    let (symbol, style) = look.of_pod(pod.state);
    let selected = screen.cursor.pod.as_ref() == Some(&pod.key);
    let mut word = pod.word.clone();
    if pod.restarts > 0 {
        let _ = write!(word, " {}{}", look.symbols.restarts, pod.restarts);
    }
    let name = match pod.key.namespace.as_str() {
        "default" => pod.key.name.clone(),
        namespace => format!("{namespace}/{}", pod.key.name),
    };
    let room = width.saturating_sub(4 + word.chars().count());
    let name = shortened(&name, room, look);
    let marker = if selected { look.symbols.cursor } else { " " };
    let line = Line::from(vec![
        Span::raw(marker),
        Span::styled(format!("{symbol} "), style),
        Span::raw(format!("{name:<room$} ")),
        Span::styled(word, style),
    ]);
    if selected { line.bold() } else { line }
}

/// `text` in at most `room` characters: its middle goes, since names differ at their ends.
fn shortened(text: &str, room: usize, look: Look) -> String {
    let length = text.chars().count();
    if length <= room {
        return text.to_owned();
    }
    let mark = look.symbols.ellipsis;
    let keep = room.saturating_sub(mark.chars().count());
    let (head, tail) = (keep - keep / 2, keep / 2);
    let head: String = text.chars().take(head).collect();
    let tail: String = text.chars().skip(length - tail).collect();
    format!("{head}{mark}{tail}")
}

fn tables_height(screen: &Screen, width: u16) -> u16 {
    let deployments = screen.picture.deployments.len() + 2;
    let services = screen.picture.services.len() + 2;
    let height = match width >= SIDE_BY_SIDE {
        true => deployments.max(services),
        false => deployments + services,
    };
    u16::try_from(height).unwrap_or(u16::MAX)
}

fn draw_tables(frame: &mut Frame, area: Rect, screen: &Screen, look: Look) {
    if area.height < 3 {
        return;
    }
    let parts = match area.width >= SIDE_BY_SIDE {
        true => Layout::horizontal([Constraint::Percentage(38), Constraint::Percentage(62)]),
        false => {
            let deployments = screen.picture.deployments.len() + 2;
            let height = u16::try_from(deployments).unwrap_or(u16::MAX).min(area.height);
            Layout::vertical([Constraint::Length(height), Constraint::Min(0)])
        }
    };
    let [left, right] = parts.areas(area);
    draw_deployments(frame, left, screen, look);
    draw_services(frame, right, screen, look);
}

fn draw_deployments(frame: &mut Frame, area: Rect, screen: &Screen, look: Look) {
    let block = look.block(Line::raw(" deployments "));
    let room = usize::from(area.width.saturating_sub(13));
    let lines = screen.picture.deployments.iter().map(|row| {
        let selected = screen.cursor.deployment.as_ref() == Some(&row.key);
        let colour = if row.ready == row.wanted { Color::Green } else { Color::Yellow };
        let marker = if selected { look.symbols.cursor } else { " " };
        let name = shortened(&row.key.name, room, look);
        let line = Line::from(vec![
            Span::raw(format!("{marker}{name:<room$} ")),
            Span::styled(format!("{:>3}/{}", row.ready, row.wanted), look.colour(colour)),
        ]);
        if selected { line.bold() } else { line }
    });
    let lines: Vec<Line> = lines.collect();
    // The chosen one is seen, whatever the height.
    let cursor = screen.cursor.deployment.as_ref();
    let chosen = screen.picture.deployments.iter().position(|row| Some(&row.key) == cursor);
    let last = usize::from(area.height.saturating_sub(4));
    let skipped = if lines.len() > last + 2 { chosen.unwrap_or(0).saturating_sub(last) } else { 0 };
    draw_list(frame, area, block, lines.into_iter().skip(skipped).collect(), look);
}

fn draw_services(frame: &mut Frame, area: Rect, screen: &Screen, look: Look) {
    let block = look.block(Line::raw(" services "));
    // Name, address and port, endpoints, rate.
    let fixed = 17 + 15 + 8 + 10;
    let width = usize::from(area.width.saturating_sub(2));
    let room = width.saturating_sub(fixed).max(10);
    let lines = screen.picture.services.iter().map(|row| {
        let colour = match (row.ready, row.all) {
            (0, _) => Color::Red,
            (ready, all) if ready < all => Color::Yellow,
            _ => Color::Green,
        };
        let rate = match row.rate {
            Some(rate) => format!("{:>7.1}/s", rate.0),
            None => format!("{:>9}", "-"),
        };
        let name = shortened(&row.service.key.name, room, look);
        let ports = shortened(&row.service.ports.join(","), 15, look);
        Line::from(vec![
            Span::raw(format!(" {name:<room$} ")),
            Span::styled(format!("{ports:<15} "), look.dim()),
            Span::styled(format!("{:>3}/{:<3} ", row.ready, row.all), look.colour(colour)),
            Span::raw(rate),
            Span::styled(format!("  {}", row.service.cluster_ip), look.dim()),
        ])
    });
    draw_list(frame, area, block, lines.collect(), look);
}

/// Lines in a block; the last one says how many did not fit.
fn draw_list(frame: &mut Frame, area: Rect, block: Block, mut lines: Vec<Line>, look: Look) {
    let inner = block.inner(area);
    let height = usize::from(inner.height);
    if lines.len() > height && height > 0 {
        let rest = lines.len() - height + 1;
        lines.truncate(height - 1);
        lines.push(Line::styled(format!(" and {rest} more"), look.dim()));
    }
    frame.render_widget(block, area);
    frame.render_widget(Paragraph::new(lines), inner);
}

fn draw_events(frame: &mut Frame, area: Rect, events: &[EventRow], look: Look) {
    if area.height < 3 {
        return;
    }
    let block = look.block(Line::raw(" events "));
    let lines = events.iter().take(usize::from(area.height - 2)).map(|row| {
        let event = &row.event;
        let colour = if event.warning { Color::Yellow } else { Color::Reset };
        let mark = if event.warning { look.symbols.warning } else { " " };
        let times = if event.count > 1 { format!(" (x{})", event.count) } else { String::new() };
        Line::from(vec![
            Span::styled(format!("{:>4} ", row.age), look.dim()),
            Span::styled(format!("{mark}{:<18} ", event.reason), look.colour(colour)),
            Span::raw(format!("{} ", event.about)),
            Span::styled(format!("{}{times}", one_line(&event.message)), look.dim()),
        ])
    });
    let lines: Vec<Line> = lines.collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn draw_log(frame: &mut Frame, area: Rect, screen: &Screen, look: Look) {
    let Some(pane) = &screen.logs else { return };
    let title = format!(" log of {} (l or Esc closes) ", pane.pod.name);
    let height = usize::from(area.height.saturating_sub(2));
    let skipped = pane.lines.len().saturating_sub(height);
    let mut lines: Vec<Line> =
        pane.lines.iter().skip(skipped).map(|line| Line::raw(one_line(line))).collect();
    if lines.is_empty() {
        lines.push(Line::styled("nothing was written yet", look.dim()));
    }
    let block = look.block(Line::raw(title)).border_style(look.colour(Color::Cyan));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Without line breaks and control characters, which would leave their cell.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn draw_keys(frame: &mut Frame, area: Rect, screen: &Screen, look: Look) {
    let keys = match screen.workers {
        true => "+/- scale  k kill worker  r restart  l log  ? help  q quit",
        false => "+/- scale  l log  ? help  q quit",
    };
    let mut spans = vec![Span::styled(format!(" {keys}"), look.dim())];
    if !screen.said.is_empty() {
        spans =
            vec![Span::styled(format!(" {}", one_line(&screen.said)), look.colour(Color::Cyan))];
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn draw_help(frame: &mut Frame, area: Rect, screen: &Screen, look: Look) {
    let mut text = vec![
        "arrows, Tab   move between pods and nodes".to_owned(),
        "[ ]           choose a Deployment".to_owned(),
        "+ -           scale the chosen Deployment".to_owned(),
        "l             follow the pod's log, or close it".to_owned(),
    ];
    if screen.workers {
        text.push("k             kill the node's worker (SIGKILL)".to_owned());
        text.push("r             start the worker again".to_owned());
    }
    text.push("q, Ctrl-C     quit".to_owned());
    text.push(String::new());
    let states = [
        (PodState::Ready, "ready"),
        (PodState::Starting, "starting"),
        (PodState::NotReady, "not ready"),
        (PodState::Pending, "no node"),
        (PodState::Terminating, "ending"),
        (PodState::Succeeded, "done"),
        (PodState::Failed, "failed"),
    ];
    let mut lines: Vec<Line> = text.into_iter().map(Line::raw).collect();
    for pair in states.chunks(4) {
        let spans = pair.iter().flat_map(|(state, word)| {
            let (symbol, style) = look.of_pod(*state);
            [Span::styled(format!("{symbol} "), style), Span::raw(format!("{word:<11}"))]
        });
        lines.push(Line::from(spans.collect::<Vec<_>>()));
    }
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2);
    let (width, height) = (58.min(area.width), height.min(area.height));
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 2;
    let area = Rect::new(x, y, width, height);
    frame.render_widget(Clear, area);
    let block = look.block(Line::raw(" keys ")).border_style(look.colour(Color::Cyan));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests;
