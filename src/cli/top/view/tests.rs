//! What the view draws, as text.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::*;
use crate::cli::top::samples;
use crate::cli::top::symbols::{ASCII, UNICODE};

const PLAIN: Look = Look { symbols: &UNICODE, colours: false };

fn drawn(screen: &Screen, width: u16, height: u16, look: Look) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, screen, look)).expect("it draws");
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let rows = buffer.content().chunks(usize::from(buffer.area.width));
    let rows = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
    rows.map(|row| format!("{}\n", row.trim_end())).collect()
}

/// Compares with a file of `tests/golden`; with `UPDATE_GOLDEN` set it writes the file instead.
fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/top").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
        std::fs::write(&path, text).expect("the golden can be written");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs; UPDATE_GOLDEN=1 writes it anew", path.display());
}

fn screen() -> Screen {
    let mut screen = Screen::new(samples::picture(), true);
    screen.press(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE));
    screen
}

#[test]
fn a_wide_terminal_shows_everything() {
    golden("wide.txt", &text(&drawn(&screen(), 120, 30, PLAIN)));
}

#[test]
fn a_narrow_terminal_puts_boxes_and_tables_below_each_other() {
    golden("narrow.txt", &text(&drawn(&screen(), 60, 40, PLAIN)));
}

#[test]
fn a_terminal_without_unicode_gets_ascii_only() {
    let text = text(&drawn(&screen(), 120, 30, Look { symbols: &ASCII, colours: true }));
    assert!(text.is_ascii(), "{text}");
    golden("ascii.txt", &text);
}

#[test]
fn a_log_takes_the_place_of_tables_and_events() {
    let mut screen = screen();
    screen.press(KeyEvent::new(KeyCode::Char('l'), KeyModifiers::NONE));
    for n in 1..50 {
        screen.log_line(format!("line {n}\twith a tab"));
    }
    golden("log.txt", &text(&drawn(&screen, 100, 24, PLAIN)));
}

#[test]
fn help_lies_over_the_rest() {
    let mut screen = screen();
    screen.press(KeyEvent::new(KeyCode::Char('?'), KeyModifiers::NONE));
    golden("help.txt", &text(&drawn(&screen, 100, 30, PLAIN)));
}

#[test]
fn colours_tell_the_states_apart() {
    let buffer = drawn(&screen(), 120, 30, Look { symbols: &UNICODE, colours: true });
    let colour = |symbol: &str| {
        let cell = buffer.content().iter().find(|cell| cell.symbol() == symbol);
        cell.map(|cell| cell.fg).expect("the symbol is on the screen")
    };
    assert_eq!(colour(UNICODE.ready), Color::Green);
    assert_eq!(colour(UNICODE.failed), Color::Red);
    assert_eq!(colour(UNICODE.pending), Color::Yellow);
}

#[test]
fn no_terminal_is_too_small_to_draw_on() {
    let mut with_log = screen();
    with_log.press(KeyEvent::new(KeyCode::Char('l'), KeyModifiers::NONE));
    let mut with_help = screen();
    with_help.press(KeyEvent::new(KeyCode::Char('?'), KeyModifiers::NONE));
    let empty = Screen::new(
        crate::cli::top::model::Picture::of(crate::cli::top::model::Observed::nothing()),
        false,
    );
    for screen in [screen(), with_log, with_help, empty] {
        for width in (1..130).step_by(7) {
            for height in 1..30 {
                drawn(&screen, width, height, PLAIN);
            }
        }
    }
}

#[test]
fn the_pod_under_the_cursor_is_seen_even_in_a_box_that_is_too_small() {
    let mut observed = samples::observed();
    for n in 0..40 {
        let mut pod = observed.pods[0].clone();
        pod.key.name = format!("many-{n:02}");
        observed.pods.push(pod);
    }
    let mut screen = Screen::new(crate::cli::top::model::Picture::of(observed), true);
    for _ in 0..30 {
        screen.press(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE));
    }
    let name = screen.cursor.pod.as_ref().map(|pod| pod.name.clone()).expect("a pod");
    let text = text(&drawn(&screen, 100, 24, PLAIN));
    assert!(text.contains(&name) && text.contains("more"), "{name}\n{text}");
}
